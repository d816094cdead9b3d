"""The sandbox: exit statuses, the view from inside, that nothing outlives it, what it says where it is forbidden."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lanparty.demo import sandbox

SANDBOX = [sys.executable, "-m", "lanparty.demo.sandbox"]


def run(*argv, **extra):
    return subprocess.run([*SANDBOX, *argv], capture_output=True, text=True, timeout=30, check=False, **extra)


@pytest.fixture(scope="module")
def allowed():
    done = run("--", "true")
    if done.returncode == 5:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(done.stderr)
    assert done.returncode == 0, done.stderr


def python(code):
    return ["--", sys.executable, "-c", code]


def test_inside_one_is_root_with_a_network_of_ones_own(allowed):
    done = run(*python("import os, socket; print(os.getuid(), [n for _, n in socket.if_nameindex()])"))
    assert done.stdout == "0 ['lo']\n", done


def test_run_is_empty_and_outside_does_not_see_it(allowed):
    name = f"lanparty-test-{os.getpid()}"
    done = run(*python(f"import os; print(os.listdir('/run')); open('/run/{name}', 'w')"))
    assert done.stdout == "['netns']\n", done
    assert not Path("/run", name).exists()


def test_it_knows_that_it_is_inside(allowed):
    code = "from lanparty.demo import sandbox; print(sandbox.is_inside(), sandbox.outer_pid() > 1)"
    assert run(*python(code)).stdout == "True True\n"


def test_the_mark_means_nothing_outside(monkeypatch):
    monkeypatch.setenv("LANPARTY_SANDBOX", "1")
    assert not sandbox.is_inside()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(0)", 0),
        ("raise SystemExit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("import os\nif os.fork() == 0: os._exit(9)\nraise SystemExit(3)", 3),
    ],
)
def test_exit_status(allowed, code, status):
    assert run(*python(code)).returncode == status


@pytest.mark.parametrize(("argv", "status"), [([], 2), (["--"], 2), (["--", "/nonexistent"], 127)])
def test_bad_commands(allowed, argv, status):
    done = run(*argv)
    assert done.returncode == status
    assert done.stderr.startswith("lanparty.demo.sandbox: error: ")
    assert done.stderr.count("\n") == 1


ORPHAN = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(60)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_outlives_its_starter(allowed, number, tmp_path):
    token = f"token-{tmp_path.name}-{os.getpid()}"
    process = subprocess.Popen([*SANDBOX, *python(ORPHAN), token], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert len(with_argument(token)) >= 3
    process.send_signal(number)
    # By signal where the command died of it; the sandbox itself dies of SIGKILL only.
    assert process.wait(10) == (-number if number == signal.SIGKILL else 128 + number)
    deadline = time.monotonic() + 5
    while with_argument(token):
        assert time.monotonic() < deadline, with_argument(token)
        time.sleep(0.02)
    process.stdout.close()


MASKED = """
import os, subprocess, sys, time
from pathlib import Path
from lanparty.demo import kernel
kernel.mount("none", "/proc/fs", "tmpfs")  # as container runtimes hide parts of it; no other /proc may then be mounted
argv = [sys.executable, "-m", "lanparty.demo.sandbox", "--", sys.executable, "-c"]
code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
process = subprocess.Popen([*argv, code], stdout=subprocess.PIPE, text=True)
pid = int(process.stdout.readline())
here = Path(f"/proc/{pid}/ns")
print("own network", os.readlink(here / "net") != os.readlink("/proc/self/ns/net"))
print("own processes", os.readlink(here / "pid") != os.readlink("/proc/self/ns/pid"))
process.kill()
end = time.monotonic() + 5
while here.exists() and time.monotonic() < end:
    time.sleep(0.02)
print("left", here.exists())
"""


def test_where_proc_is_masked_it_does_without_a_process_id_namespace(allowed):
    done = run(*python(MASKED))
    assert done.stdout == "own network True\nown processes False\nleft False\n", done


def with_argument(token):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if token.encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_a_command_can_end_in_its_own_way(allowed):
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(4)); print('ready', flush=True); signal.pause()"
    process = subprocess.Popen([*SANDBOX, *python(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    assert process.wait(10) == 4
    process.stdout.close()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kernel.unprivileged_userns_clone": "0"}, "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        ({"user.max_user_namespaces": "0"}, "sudo sysctl -w user.max_user_namespaces=10000"),
        (
            {"kernel.apparmor_restrict_unprivileged_userns": "1", "user.max_user_namespaces": "96365"},
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ({"kernel.unprivileged_userns_clone": "1", "user.max_user_namespaces": "96365"}, "'make namespaces'"),
        ({}, "Operation not permitted"),
    ],
)
def test_where_it_is_forbidden_it_says_what_to_do(settings, says):
    text = sandbox.explain("make namespaces", errno.EPERM, settings.get)
    assert says in text
    assert "\n" not in text


def test_a_kernel_without_user_namespaces(allowed):
    """Really refused, by the limit that the sandbox itself can set for those inside it."""
    code = (
        "import os, subprocess, sys\n"
        "del os.environ['LANPARTY_SANDBOX']\n"  # or the demo would believe that it is where it wants to be
        "open('/proc/sys/user/max_user_namespaces', 'w').write('0')\n"
        "open('/proc/sys/user/max_net_namespaces', 'w').write('0')\n"
        "sys.exit(subprocess.call([sys.executable, '-m', 'lanparty.demo']))"
    )
    done = run(*python(code))
    assert done.returncode == 5, done
    assert done.stderr.startswith("lanparty.demo: error: ")
    assert "max_user_namespaces" in done.stderr
    assert done.stderr.count("\n") == 1
