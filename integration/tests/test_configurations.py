"""The configurations that people copy."""

from __future__ import annotations

import sys

import pytest
import yaml

from conftest import WASM
from pair import ROOT, connection_manager, walk

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
