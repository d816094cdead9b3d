from __future__ import annotations

import re

import pytest
from fake_kernel import CLASS, NAMES, FakeKernel
from windows_taps import MAC

from lanparty.link.windows.adapters import (
    DriverMissingError,
    apply_mac_change,
    choose_adapter,
    current_network_address,
    find_adapters,
    mac_change,
    restart_adapter,
    set_network_address,
    undo_mac_change,
)
from lanparty.link.windows.driver import (
    AdapterBusyError,
    AdapterStoppedError,
    check_version,
    close_adapter,
    driver_mac,
    driver_mtu,
    driver_version,
    open_adapter,
    set_media_status,
)
from lanparty.link.windows.registry import (
    RegistryDeniedError,
    RegistryError,
    RegistryMissingError,
    delete_value,
    read_text,
    subkeys,
    write_text,
)
from lanparty.link.windows.winapi import cfgmgr32, kernel32
from lanparty.obs.errors import ExitStatus, MachineError

OURS = MAC.hex().upper()


# --- the registry


def test_values_are_read_whatever_they_are() -> None:
    with FakeKernel().installed() as kernel:
        registry = kernel.registry
        registry.put("A\\B", Name="Ä 😀", Empty="")
        registry.put_raw("A\\B", "NoZero", 1, "four".encode("utf-16-le"))
        registry.put_raw("A\\B", "Number", 4, bytes(4))
        registry.put_raw("A\\B", "Odd", 1, b"a\0b")
        registry.put_raw("A\\B", "Long", 1, bytes(5000))
        assert read_text("a\\b", "NAME") == "Ä 😀"
        assert read_text("A\\B", "Empty") == ""
        assert read_text("A\\B", "NoZero") == "four"
        assert read_text("A\\B", "Number") is None
        assert read_text("A\\B", "Odd") == "a"
        assert read_text("A\\B", "None") is read_text("A\\C", "Name") is None
        with pytest.raises(RegistryError, match=r"A\\B\\Long in the registry \(Windows error 234\)"):
            read_text("A\\B", "Long")


def test_values_are_written_and_removed() -> None:
    with FakeKernel().installed() as kernel:
        kernel.registry.put("A")
        write_text("A", "Name", "😀")
        assert kernel.registry.get("A", "Name") == read_text("A", "Name") == "😀"
        delete_value("A", "name")
        delete_value("A", "name")
        assert read_text("A", "Name") is None
        with pytest.raises(RegistryMissingError):
            write_text("B", "Name", "x")
        kernel.registry.administrator = False
        with pytest.raises(RegistryDeniedError, match="run this as administrator"):
            write_text("A", "Name", "x")


def test_subkeys_are_direct_ones() -> None:
    with FakeKernel().installed() as kernel:
        kernel.registry.put("A\\0001\\Ndi\\Params")
        kernel.registry.put("A\\" + "n" * 255)
        assert subkeys("A") == ["0001", "n" * 255]
        assert subkeys("A\\0001\\Ndi\\Params") == []
        with pytest.raises(RegistryMissingError):
            subkeys("B")


# --- discovery and choice


def test_adapters_are_found_by_their_component() -> None:
    with FakeKernel().installed() as kernel:
        first, second = (
            kernel.add_tap("Ethernet 7", component="tap0901"),
            kernel.add_tap("Spiel", component="ROOT\\TAP0901"),
        )
        kernel.add_tap("other", component="wintun")
        kernel.registry.put(CLASS + "\\0001", ComponentId="pci\\ven_8086", NetCfgInstanceId="{1}")
        kernel.registry.put(CLASS + "\\0002", ComponentId="tap0901")  # half installed
        kernel.registry.put(CLASS + "\\Configuration")
        found = find_adapters()
        assert [(adapter.guid, adapter.name, adapter.key, adapter.device) for adapter in found] == [
            (first.guid, "Ethernet 7", first.key, "ROOT\\NET\\0000"),
            (second.guid, "Spiel", second.key, "ROOT\\NET\\0001"),
        ]


def test_an_adapter_without_a_name_or_a_device_in_its_class_key() -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap()
        kernel.registry.remove(f"{NAMES}\\{tap.guid}")
        delete_value(tap.key, "DeviceInstanceID")
        (adapter,) = find_adapters()
        assert (adapter.name, adapter.device) == (tap.guid, None)
        with pytest.raises(MachineError, match="its device is not in the registry"):
            restart_adapter(adapter)
        kernel.registry.put(f"{NAMES}\\{tap.guid}\\Connection", PnPInstanceID=tap.device)
        (adapter,) = find_adapters()
        assert adapter.device == tap.device


@pytest.mark.parametrize("by", ["name", "upper case", "guid", "lower case guid"])
def test_an_adapter_is_chosen_by_name(by: str) -> None:
    with FakeKernel().installed() as kernel:
        kernel.add_tap("OpenVPN")
        tap = kernel.add_tap("Straße")
        word = {"name": "Straße", "upper case": "STRASSE", "guid": tap.guid, "lower case guid": tap.guid.lower()}[by]
        adapter, handle = choose_adapter(word)
        assert (adapter.guid, handle) == (tap.guid, tap.handle)
        close_adapter(handle)


def test_the_first_that_opens_is_taken() -> None:
    with FakeKernel().installed() as kernel:
        busy, stopped, free, _ = [kernel.add_tap(name) for name in ("a", "b", "c", "d")]
        busy.taken, stopped.enabled = True, False
        adapter, handle = choose_adapter(None)
        assert adapter.name == "c"
        assert free.handle == handle
        close_adapter(handle)


def sentence(kernel: FakeKernel, kind: type[MachineError], name: str | None = None) -> str:
    with pytest.raises(kind) as caught:
        choose_adapter(name)
    assert caught.value.status == ExitStatus.CANNOT
    assert all(tap.handle is None for tap in kernel.taps)
    return str(caught.value)


def test_what_is_said_when_there_is_none() -> None:
    with FakeKernel().installed() as kernel:
        assert re.search(
            "no TAP-Windows6 network adapter: install OpenVPN .*openvpn.net", sentence(kernel, DriverMissingError)
        )
        kernel.registry.put(r"SYSTEM\CurrentControlSet\Services\tap0901", ImagePath="x")
        assert re.search(
            r"has the driver TAP-Windows6, but no network adapter .*'tapctl create --hwid root\\tap0901'",
            sentence(kernel, DriverMissingError),
        )


def test_a_windows_without_any_network_adapter_has_none_of_ours() -> None:
    with FakeKernel().installed() as kernel:
        kernel.registry.remove(CLASS)
        assert find_adapters() == []
        assert "install OpenVPN" in sentence(kernel, DriverMissingError)


def test_what_is_said_when_none_can_be_used() -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        assert "called 'game 2'; it has 'Game'" in sentence(kernel, MachineError, "game 2")
        tap.taken = True
        for name in (None, "Game"):
            assert "'Game' is used by another program" in sentence(kernel, AdapterBusyError, name)
        tap.taken, tap.enabled = False, False
        for name in (None, "game"):
            assert "'Game' is disabled: enable it" in sentence(kernel, AdapterStoppedError, name)
        kernel.add_tap("VPN").taken = True
        text = sentence(kernel, AdapterBusyError)
        assert "'Game', 'VPN' are used by other programs or disabled" in text
        assert "tapctl create" in text


def test_what_is_said_without_administrator_rights() -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        tap.denied, kernel.registry.administrator = True, False
        text = sentence(kernel, MachineError)
        assert "may not open the network adapter 'Game': run this as administrator" in text
        (adapter,) = find_adapters()
        with pytest.raises(MachineError, match="'Game' cannot be set without administrator rights"):
            set_network_address(adapter, OURS)
        with pytest.raises(MachineError, match="'Game' cannot be restarted without administrator rights"):
            restart_adapter(adapter)


# --- the driver


def test_the_driver_answers() -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        tap.mtu, tap.version = 1400, (9, 24)
        handle = open_adapter(tap.guid, tap.name)
        assert driver_mac(handle, "Game") == tap.permanent
        assert driver_mtu(handle, "Game") == 1400
        assert driver_version(handle, "Game") == (9, 24)
        check_version(handle, "Game")
        set_media_status(handle, "Game", True)
        assert tap.media
        set_media_status(handle, "Game", False)
        assert not tap.media
        tap.version = (9, 23)
        with pytest.raises(MachineError, match=r"'Game' is version 9\.23, and 9\.24 is the oldest"):
            check_version(handle, "Game")
        tap.ioctl_error = kernel32.ERROR_GEN_FAILURE
        with pytest.raises(MachineError, match=r"'Game' does not answer \(code 0x220004, Windows error 31\)"):
            driver_mac(handle, "Game")
        close_adapter(handle)


def test_other_errors_of_opening_have_their_number() -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        tap.open_error = kernel32.ERROR_NO_SYSTEM_RESOURCES
        with pytest.raises(MachineError, match=r"'Game' does not open \(Windows error 1450\): restart"):
            open_adapter(tap.guid, tap.name)


# --- the MAC


def test_a_mac_is_set_and_put_back() -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        before = kernel.registry.dump()
        (adapter,) = find_adapters()
        change = mac_change(adapter, MAC)
        assert (change.before, change.after) == (None, "02AABBCCDD01")
        assert kernel.registry.dump() == before
        apply_mac_change(change)
        assert tap.mac == MAC
        assert current_network_address(adapter) == OURS
        assert undo_mac_change(change)
        assert tap.mac == tap.permanent
        assert kernel.registry.dump() == before
        restart = [f"CM_Disable_DevNode {tap.device}", f"CM_Enable_DevNode {tap.device}"]
        assert kernel.calls == [
            f"RegSetValueExW 0007 NetworkAddress={OURS}",
            *restart,
            "RegDeleteValueW 0007 NetworkAddress",
            *restart,
        ]
        assert not undo_mac_change(change)
        assert kernel.registry.dump() == before


def test_a_mac_that_somebody_had_set_is_put_back() -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        write_text(tap.key, "NetworkAddress", "02-00-00-00-00-99")
        before = kernel.registry.dump()
        (adapter,) = find_adapters()
        change = mac_change(adapter, MAC)
        apply_mac_change(change)
        assert tap.mac == MAC
        assert undo_mac_change(change)
        assert kernel.registry.dump() == before


def test_what_others_changed_stays() -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        (adapter,) = find_adapters()
        change = mac_change(adapter, MAC)
        apply_mac_change(change)
        write_text(tap.key, "NetworkAddress", "020000000077")
        kernel.calls.clear()
        assert not undo_mac_change(change)
        assert (kernel.calls, read_text(tap.key, "NetworkAddress")) == ([], "020000000077")


@pytest.mark.parametrize("how", ["removed", "another one has its number"])
def test_an_adapter_that_is_gone_has_nothing_to_be_put_back(how: str) -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        (adapter,) = find_adapters()
        change = mac_change(adapter, MAC)
        apply_mac_change(change)
        if how == "removed":
            kernel.registry.remove(tap.key)
        else:
            kernel.registry.put(tap.key, NetCfgInstanceId="{FFFFFFFF-0000-0000-0000-000000000000}")
        kernel.calls.clear()
        assert not undo_mac_change(change)
        with pytest.raises(RegistryMissingError, match="'Game' is no longer there"):
            mac_change(adapter, MAC)
        assert kernel.calls == []


@pytest.mark.parametrize("step", ["disable", "enable"])
def test_a_refused_restart_leaves_nothing_changed(step: str) -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        before = kernel.registry.dump()
        if step == "disable":
            tap.disable_error = cfgmgr32.CR_REMOVE_VETOED
        else:
            tap.enable_error = cfgmgr32.CR_NEED_RESTART
        (adapter,) = find_adapters()
        with pytest.raises(MachineError, match=r"did not restart the network adapter 'Game'.*\(code 0x(17|22)\)"):
            apply_mac_change(mac_change(adapter, MAC))
        assert kernel.registry.dump() == before
        assert tap.enabled == (step == "disable")
        tap.disable_error = tap.enable_error = cfgmgr32.CR_SUCCESS
        tap.device = "ROOT\\NET\\0099"
        with pytest.raises(MachineError, match=r"code 0xd"):
            restart_adapter(adapter)


def test_a_crash_between_stop_and_start_is_put_right() -> None:
    with FakeKernel().installed() as kernel:
        tap = kernel.add_tap("Game")
        before = kernel.registry.dump()
        (adapter,) = find_adapters()
        change = mac_change(adapter, MAC)
        set_network_address(adapter, change.after)
        tap.enabled = False
        assert undo_mac_change(change)
        assert (tap.enabled, tap.mac) == (True, tap.permanent)
        assert kernel.registry.dump() == before
