import pytest

from lanparty.link.names import tunnel_interfaces


@pytest.mark.parametrize(
    ("tap", "names"), [(None, {"lanparty0", "lanparty63"}), ("lp0", {"lp0", "lanparty0"}), ("lp%d", {"lp0", "lp63"})]
)
def test_interfaces_that_lead_into_a_tunnel(tap, names):
    assert names <= tunnel_interfaces(tap)
    assert "eth0" not in tunnel_interfaces(tap)
