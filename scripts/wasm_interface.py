#!/usr/bin/env python3
"""Checks what a built filter asks of its host and offers to it.

    scripts/wasm_interface.py FILE.wasm

Exit status 1 if it imports anything that isn't listed here, since Envoy refuses a module with an
import that it doesn't know, and each import is a way out of the sandbox; or if it lacks an export
that Envoy can't do without.
"""

import sys

# What this filter calls, and what only the default methods of the SDK's traits could.
SDK_IMPORTS = {
    "proxy_add_header_map_value",
    "proxy_call_foreign_function",
    "proxy_dequeue_shared_queue",
    "proxy_done",
    "proxy_enqueue_shared_queue",
    "proxy_get_current_time_nanoseconds",
    "proxy_get_status",
    "proxy_grpc_call",
    "proxy_grpc_cancel",
    "proxy_grpc_close",
    "proxy_grpc_send",
    "proxy_grpc_stream",
    "proxy_register_shared_queue",
    "proxy_resolve_shared_queue",
    "proxy_set_header_map_pairs",
}

ALLOWED_IMPORTS = {
    "env": {
        "proxy_close_stream",
        "proxy_continue_stream",
        "proxy_define_metric",
        "proxy_get_buffer_bytes",
        "proxy_get_header_map_pairs",
        "proxy_get_header_map_value",
        "proxy_get_property",
        "proxy_get_shared_data",
        "proxy_http_call",
        "proxy_increment_metric",
        "proxy_log",
        "proxy_record_metric",
        "proxy_remove_header_map_value",
        "proxy_replace_header_map_value",
        "proxy_send_local_response",
        "proxy_set_buffer_bytes",
        "proxy_set_effective_context",
        "proxy_set_property",
        "proxy_set_shared_data",
        "proxy_set_tick_period_milliseconds",
    }
    | SDK_IMPORTS,
    "wasi_snapshot_preview1": {"clock_time_get", "random_get"},
}

NEEDED_EXPORTS = {
    "_initialize",
    "memory",
    "proxy_abi_version_0_2_1",
    "proxy_on_configure",
    "proxy_on_context_create",
    "malloc",
    "proxy_on_request_headers",
    "proxy_on_response_body",
}

IMPORT_SECTION, EXPORT_SECTION = 2, 7


class Bytes:
    """Reads the binary format of WebAssembly (https://webassembly.github.io/spec/core/binary/)."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        piece = self.data[self.at : self.at + count]
        if len(piece) < count:
            raise ValueError("cut off")
        self.at += count
        return piece

    def byte(self):
        return self.take(1)[0]

    def number(self):
        """LEB128, unsigned."""
        value, shift = 0, 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def name(self):
        return self.take(self.number()).decode()

    def limits(self):
        flags = self.number()
        self.number()
        if flags & 1:
            self.number()


def sections(data):
    source = Bytes(data)
    if source.take(8) != b"\0asm\1\0\0\0":
        raise ValueError("no WebAssembly module")
    while source.at < len(data):
        kind = source.byte()
        yield kind, Bytes(source.take(source.number()))


def read_imports(section):
    for _ in range(section.number()):
        module, name, kind = section.name(), section.name(), section.byte()
        if kind == 0:  # function
            section.number()
        elif kind == 1:  # table
            section.byte()
            section.limits()
        elif kind == 2:  # memory
            section.limits()
        elif kind == 3:  # global
            section.take(2)
        elif kind == 4:  # tag
            section.byte()
            section.number()
        else:
            raise ValueError(f"import of kind {kind}")
        yield module, name


def read_exports(section):
    for _ in range(section.number()):
        name = section.name()
        section.byte()
        section.number()
        yield name


def interface(data):
    """The imports of a module, with the modules that they are of, and the set of its exports."""
    imports, exports = [], set()
    for kind, section in sections(data):
        if kind == IMPORT_SECTION:
            imports += read_imports(section)
        elif kind == EXPORT_SECTION:
            exports |= set(read_exports(section))
    return imports, exports


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as file:
        imports, exports = interface(file.read())
    print(f"imports: {', '.join(name for _, name in imports) or 'none'}")
    unknown = [f"{module}.{name}" for module, name in imports if name not in ALLOWED_IMPORTS.get(module, ())]
    missing = sorted(NEEDED_EXPORTS - exports)
    if unknown:
        print(f"imports that are not allowed: {', '.join(unknown)}", file=sys.stderr)
    if missing:
        print(f"missing exports: {', '.join(missing)}", file=sys.stderr)
    sys.exit(1 if unknown or missing else 0)


if __name__ == "__main__":
    main()
