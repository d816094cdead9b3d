"""A whole Windows at the boundary of its DLLs, put together from its parts, and one consistent machine.

    fake_kernel         handles, overlapped operations, Plug and Play, the TAP driver; the registry
    fake_iphelper       interfaces, routes, DNS servers, networks
    fake_stack          what Windows does with an adapter's wire: its DHCP client, ARP
    fake_windows_dlls   the same DLLs, tied to the machine; addresses, the DHCP calls, processes and directories
    here                what follows of what, the machine's state, and the life and death of a program

What is tied together:

- A plugged cable (TAP_WIN_IOCTL_SET_MEDIA_STATUS) makes the interface "up", and the DHCP client ask, by frames on the
  wire. What it gets becomes an address with its routes, and the default route of the lease. Its network appears.
- An adapter's restart takes all addresses and routes off, and is when the driver reads NetworkAddress and the DHCP
  client EnableDHCP.
- Every change is told to whoever registered for it, from a thread of Windows.

``log`` has all calls of all DLLs in the order of their use. `kill` is SIGKILL, as far as one process can play it: from
then on no call has an effect, the handles are closed, and `reborn` makes the journals be as they were.
"""

import itertools
import math
import os
import shutil
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trio
from fake_dll import FakeDll
from fake_iphelper import ETHERNET, LOOPBACK, FakeNetwork, FakeRoute
from fake_kernel import FakeKernel
from fake_stack import WindowsStack
from fake_windows_dlls import FOR_EVER, Advapi, Com, IpHelper, Kernel, Networks, Others

from lanparty.link.windows import iocp
from lanparty.link.windows.winapi import iphlpapi as ip
from lanparty.link.windows.winapi import netlistmgr
from lanparty.link.windows.winapi.dll import FakeDlls, fakes

PARAMETERS = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters\Interfaces"
REG_DWORD = 4
ERROR_SEM_TIMEOUT = 121


class FakeWindows(FakeDlls):
    """The machine: an Ethernet that leads to the internet, and a TAP adapter."""

    def __init__(self, *, taps=("LanParty",)):
        super().__init__()
        self._token = None
        self.lock = threading.RLock()
        """Whoever looks from another thread sees all of a change, or nothing."""
        self.log = []
        self.administrator = True
        self.dead = False
        self.booted = 0x1DC5EED
        self.processes = {os.getpid(): 1000}
        self.network = FakeNetwork.usual()
        for guid in [guid for guid in self.network.interfaces if guid not in (ETHERNET, LOOPBACK)]:
            self.network.remove(guid)
        self.network.calls = self.log
        self.network.networks = Networks(self)
        self.stacks = {}
        self.on_change = lambda function: None
        """Called before each call that changes something, with its name. May `kill`, or raise nothing."""
        self.was_refused = False
        self.refused = {}
        """Calls that change something: what is answered instead."""
        self.kernel = Kernel(self)
        self.ip_helper = IpHelper(self)
        self.com = Com(self)
        self.others = Others(self)
        self.advapi = Advapi(self)
        self.kernel.on_restart = self._restarted
        self._dlls = []
        self.news = trio.Event()
        """Set when something happened, of which more follows."""
        self.lived = trio.Event()
        """Set, and replaced, when all that follows of something has happened."""
        self._journals = None
        self.traffic = trio.Event()
        """Set, and replaced, when frames came in by a wire."""
        self._asking = itertools.count()
        self._waiting = {}
        self._renewals = {}
        self._told = None
        self._deleted = {}
        """Routes of a lease that somebody removed, and the lease: with the next one they come again."""
        for name in taps:
            self.add_tap(name)

    def add_tap(self, name):
        """Install an adapter of the driver."""
        tap = self.kernel.add_tap(name)
        self.network.add(tap.guid, name, up=False)
        self.kernel.registry.put_raw(f"{PARAMETERS}\\{tap.guid}", "EnableDHCP", REG_DWORD, b"\1\0\0\0")
        self.stacks[tap.guid] = WindowsStack(tap.mac)
        return tap

    @property
    def now(self):
        """The time, for any thread."""
        return self._clock.current_time()

    def plug(self, connected):
        """The first adapter's cable goes in or out, whoever does it."""
        self.tap.media = connected
        self.settle()

    def switch_dhcp(self, on):
        """Somebody gave the first adapter an address by hand, or took it away again, before this program started."""
        value = int(on).to_bytes(4, "little")
        self.kernel.registry.put_raw(f"{PARAMETERS}\\{self.tap.guid}", "EnableDHCP", REG_DWORD, value)
        self.stack.dhcp_enabled = on

    @property
    def tap(self):
        """The first adapter."""
        return self.kernel.taps[0]

    @property
    def stack(self):
        """Its stack."""
        return self.stacks[self.tap.guid]

    def remove_tap(self):
        """Pull the adapter out, as Device Manager's "uninstall" does."""
        tap = self.tap
        self.kernel.halt(tap)
        self.kernel.registry.remove(tap.key)
        del self.stacks[tap.guid]
        self.network.addresses = {a: owner for a, owner in self.network.addresses.items() if owner[0] != tap.guid}
        self.network.remove(tap.guid)
        self.tell()

    def state(self):
        """All that a run may change and has to put back."""
        taps = {tap.guid: (tap.mac, tap.media, tap.enabled, tap.handle) for tap in self.kernel.taps}
        fixed = {guid: (dict(stack.fixed), stack.dhcp_enabled) for guid, stack in self.stacks.items()}
        known = self.network.state()
        public = [name for name, value in known.items() if name[0] == "network" and value == 0]
        for name in public:  # Windows remembers a network as it came
            del known[name]
        return {
            **known,
            "addresses": dict(self.network.addresses),
            "registry": self.kernel.registry.dump(),
            "taps": taps,
            "stacks": fixed,
        }

    # What happens in this Windows

    async def run(self, *, task_status=trio.TASK_STATUS_IGNORED):
        """Let time pass for the DHCP clients, and frames and news travel, until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        self._clock = trio.lowlevel.current_clock()
        task_status.started()
        try:
            while True:
                self.news = trio.Event()
                self._live()
                wake_at = min((stack.wake_at for stack in self.stacks.values()), default=math.inf)
                with trio.move_on_at(wake_at):
                    await self.news.wait()
        finally:
            self._token = None
            for waiting in self._waiting.values():
                waiting.set()

    def settle(self):
        """Something happened: look soon what follows of it. From any thread."""
        self.soon(self._wake)

    def soon(self, call):
        """Call it in a later turn of the event loop. From any thread."""
        if self._token is not None:
            self._token.run_sync_soon(call, idempotent=True)

    def _wake(self):
        self.news.set()

    def tell(self):
        """Tell who registered that something changed. From any thread."""
        self.soon(self.ip_helper.notify)

    def heard(self, tap, frames):
        """Frames came in by the wire."""
        now = trio.current_time()
        stack = self.stacks.get(tap.guid)
        if stack is not None:
            with self.lock:
                before = stack.dhcp.bound
                for frame in frames:
                    stack.receive(frame, now)
                if stack.dhcp.bound is not before:
                    self._show()
        self.traffic.set()
        self.traffic = trio.Event()
        if stack is not None and (stack.sent or stack.dhcp.finished):
            self.settle()

    def follow_media(self):
        """The driver's media status may have changed."""
        self.settle()

    def ask(self, stack, function):
        """Have the DHCP client do something, and wait for its result; in a worker thread."""
        token = self._token
        if token is None:  # this Windows is shut down, and the program does not wait for its answer any more
            return ERROR_SEM_TIMEOUT
        number, done, results = next(self._asking), threading.Event(), []
        self._waiting[number] = done

        def begin():
            now = trio.current_time()
            if function == "IpReleaseAddress":
                results.append(stack.release(now))
                done.set()
            else:
                stack.renew(now)
                self._renewals.setdefault(id(stack), []).append((results, done))
            self._live()

        token.run_sync_soon(begin)
        done.wait()
        del self._waiting[number]
        return results[0] if results else ERROR_SEM_TIMEOUT

    def _live(self):
        """Let everything that is due happen."""
        with self.lock:
            self._live_on(trio.current_time())
        self.lived.set()
        self.lived = trio.Event()

    def _live_on(self, now):
        for tap in self.kernel.taps:
            stack = self.stacks.get(tap.guid)
            if stack is None:
                continue
            stack.media(tap.media and tap.enabled, now)
            if stack.wake_at <= now:
                stack.tick(now)
            while stack.sent:
                frames, stack.sent = stack.sent, []
                self.kernel.send(tap, frames)
            while stack.dhcp.finished and self._renewals.get(id(stack)):
                results, done = self._renewals[id(stack)].pop(0)
                results.append(stack.dhcp.finished.pop(0))
                done.set()
        self._show()

    def _restarted(self, tap):
        """The driver was started anew."""
        enabled = self.kernel.registry.dump()[f"{PARAMETERS}\\{tap.guid}".lower()]["EnableDHCP"]
        self.stacks[tap.guid].restart(tap.mac, bool(int.from_bytes(enabled, "little")))
        self.network.interfaces[tap.guid].index += 100
        self.settle()

    # What is seen of it

    def addresses_of(self, guid):
        """(address, prefix, origin, state, seconds, lease) of an interface's IPv4 addresses."""
        stack = self.stacks.get(guid)
        if stack is None:
            return [
                (address, prefix, ip.IpPrefixOriginDhcp, ip.IpDadStatePreferred, 80000, 86400)
                for address, (owner, prefix) in self.network.addresses.items()
                if owner == guid and ":" not in address
            ]
        found = []
        for address, prefix in stack.fixed.items():
            sure = stack.connected and address not in stack.checked
            state = ip.IpDadStatePreferred if sure else ip.IpDadStateTentative
            state = ip.IpDadStateDuplicate if address in stack.taken else state
            found.append((address, prefix, ip.IpPrefixOriginManual, state, FOR_EVER, FOR_EVER))
        bound = stack.dhcp.bound
        if bound is not None:
            left = max(0, int(bound.since + bound.seconds - self.now))
            origin = ip.IpPrefixOriginDhcp
            state = ip.IpDadStateTentative if bound.address in stack.checked else ip.IpDadStatePreferred
            found.append((bound.address, bound.prefix, origin, state, left, bound.seconds))
        elif stack.dhcp.automatic is not None:
            origin = ip.IpPrefixOriginWellKnown
            found.append((stack.dhcp.automatic, 16, origin, ip.IpDadStatePreferred, FOR_EVER, FOR_EVER))
        return found

    def _show(self):
        """Make the interfaces, addresses, routes and networks be what the stacks say; tell of changes."""
        for guid, stack in self.stacks.items():
            interface = self.network.interfaces[guid]
            interface.up = stack.connected
            bound = stack.dhcp.bound
            interface.dhcp_dns = bound.name_servers if bound else ()
            interface.gateways = (bound.router,) if bound and bound.router else ()
            self.network.addresses = {
                **{a: owner for a, owner in self.network.addresses.items() if owner[0] != guid},
                **{entry[0]: (guid, entry[1]) for entry in self.addresses_of(guid)},
            }
            own = self._routes_of(guid, stack)
            others = {
                name: route
                for name, route in self.network.routes.items()
                if name[0] != guid or (route.protocol != ip.RouteProtocolLocal and stack.connected)
            }
            self.network.routes = {**others, **own}
            self._show_network(guid, stack)
        picture = self._picture()
        if picture != self._told:
            self._told = picture
            self.tell()

    def _picture(self):
        leases = {guid: (stack.dhcp.bound, set(stack.checked), set(stack.taken)) for guid, stack in self.stacks.items()}
        ups = {guid: each.up for guid, each in self.network.interfaces.items()}
        return set(self.network.routes), dict(self.network.addresses), ups, leases, list(self.network.connections)

    def _routes_of(self, guid, stack):
        names = [(guid, "255.255.255.255/32", None)]
        if stack.connected:
            names.append((guid, "224.0.0.0/4", None))
            for address, prefix, *_ in self.addresses_of(guid):
                network = self._network_text(address, prefix)
                names += [(guid, network, None), (guid, f"{address}/32", None)]
        found = {name: FakeRoute(256, ip.RouteProtocolLocal) for name in names}
        bound = stack.dhcp.bound
        if bound is not None and stack.connected:
            leased = [*bound.routes, *([("0.0.0.0/0", bound.router)] if bound.router else [])]
            for destination, router in leased:
                name = (guid, destination, router)
                if self._deleted.get(name) is not bound:
                    found[name] = FakeRoute(0, ip.RouteProtocolLocal, origin=ip.NlroDHCP)
        return found

    def route_deleted(self, name):
        """Somebody removed a route."""
        stack = self.stacks.get(name[0])
        if stack is not None:
            self._deleted[name] = stack.dhcp.bound

    @staticmethod
    def _network_text(address, prefix):
        value = int.from_bytes(bytes(map(int, address.split("."))), "big") >> (32 - prefix) << (32 - prefix)
        return f"{'.'.join(map(str, value.to_bytes(4, 'big')))}/{prefix}"

    def _show_network(self, guid, stack):
        """A network without a router that Windows knows is a new one, and public."""
        has = any(adapter == guid for adapter, _ in self.network.connections)
        addressed = stack.connected and (stack.dhcp.bound or stack.fixed)
        if addressed and not has:
            name = f"{{B0000000-0000-4000-8000-{len(self.network.networks):012}}}"
            self.network.networks[name] = netlistmgr.NLM_NETWORK_CATEGORY_PUBLIC
            self.network.connections.append((guid, name))
        elif has and not addressed:
            self.network.connections = [pair for pair in self.network.connections if pair[0] != guid]

    # The program's life

    def change(self, function):
        """A call is made that changes something; whether it is refused."""
        if not self.dead:
            self.on_change(function)
        return self.dead or function in self.refused

    def note_once(self, function):
        """Reads and writes are in the log once for each opening."""
        for name in reversed(self.log):
            if name == function:
                return
            if name.startswith("CreateFileW"):
                break
        self.log.append(function)

    def kill(self):
        """The program is killed now: nothing that it does from now on has an effect."""
        if self.dead:
            return
        self.dead = True
        place = self.directory
        self._journals = {path.name: path.read_bytes() for path in place.iterdir()} if place.exists() else {}
        for tap in self.kernel.taps:  # the system closes its handles
            if tap.handle is not None:
                FakeKernel.CloseHandle(self.kernel, tap.handle)
        self.settle()

    def reborn(self):
        """Everything that was left of the killed program is over; the next one may be started."""
        assert self.dead
        self.dead = False
        self.processes[os.getpid()] += 1  # another process, with the same number
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir()
        for name, content in self._journals.items():
            (self.directory / name).write_bytes(content)
        self.ip_helper.callbacks.clear()
        self.ip_helper._memory.clear()
        self._show()

    @property
    def directory(self):
        """Where the journals are."""
        return Path(os.environ["PROGRAMDATA"]) / "lanparty"

    # Seams

    def open(self, name, prototypes):
        """See `FakeDlls`."""
        methods = {
            "kernel32.dll": self.kernel,
            "cfgmgr32.dll": self.kernel,
            "advapi32.dll": self.advapi,
            "iphlpapi.dll": self.ip_helper,
            "ole32.dll": self.com,
            "ntdll.dll": self.others,
            "shell32.dll": self.others,
        }
        self._dlls.append(FakeDll(methods[name], prototypes))
        return self._dlls[-1]

    @contextmanager
    def installed(self):
        """Be what the program runs on, inside; at the end everything must have been given back."""
        with ExitStack() as stack:
            stack.enter_context(fakes(self))
            stack.enter_context(iocp.fake_monitor(self.kernel.monitor))
            yield self
        self.check()

    def check(self):
        """Whether everything was given back, and nothing went wrong where ctypes cannot tell."""
        for dll in self._dlls:
            if dll.raised:
                raise dll.raised[0]
        assert not self.kernel.registry.open_keys
        assert not self.kernel._events
        assert not self.ip_helper.unfreed
        assert not self.com.unreleased
        assert not self.ip_helper.callbacks
        assert all(tap.handle is None for tap in self.kernel.taps)
