"""The configurations that people copy."""

from __future__ import annotations

import pytest
import yaml

from pair import ROOT, walk


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
