"""The configurations that people copy."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from conftest import ENVOY, WASM
from pair import DEFAULT_WASM, ROOT, connection_manager, walk

sys.path.append(str(ROOT / "scripts"))
import wasm_interface


@pytest.mark.parametrize("name", ["near", "far", "near-adaptive"])
def test_a_configuration_for_tls_differs_from_the_plain_one_in_tls_alone(name):
    plain, tls = (yaml.safe_load((ROOT / f"envoy/{name}{suffix}.yaml").read_text()) for suffix in ("", "-tls"))
    removed = []

    def remove_tls(mapping: dict) -> None:
        if mapping.get("transport_socket", {}).get("name") == "tls":
            removed.append(mapping.pop("transport_socket"))

    walk(tls, remove_tls)
    assert removed
    assert tls == plain


def test_what_the_connection_manager_may_call_and_be_called_is_in_the_module():
    near = yaml.safe_load((ROOT / "envoy/near-adaptive.yaml").read_text())
    (manager, _) = connection_manager(near, "ingress")["http_filters"]
    restriction = manager["typed_config"]["config"]["capability_restriction_config"]
    imports, exports = wasm_interface.interface((ROOT / WASM).read_bytes())
    there = {name for _, name in imports} | exports
    assert restriction["allowed_capabilities"].keys() <= there


def test_an_older_list_without_the_clock_is_refused_at_start(tmp_path):
    near = yaml.safe_load((ROOT / "envoy/near-adaptive.yaml").read_text().replace(str(DEFAULT_WASM), str(ROOT / WASM)))
    (manager, _) = connection_manager(near, "ingress")["http_filters"]
    del manager["typed_config"]["config"]["capability_restriction_config"]["allowed_capabilities"]["clock_time_get"]
    file = tmp_path / "near.yaml"
    file.write_text(yaml.safe_dump(near))
    command = [ENVOY, "--mode", "validate", "--config-path", file]
    validated = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert validated.returncode == 1
    assert "no clock (clock_time_get): the host answered 76" in validated.stderr
