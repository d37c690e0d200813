"""Two hosts on one machine: network namespaces joined by a cable, an ssh server in each.

Each has a name, an address and mounts of its own; all else is shared. Needs root.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NAMES = {"nodea": "10.77.0.1", "nodeb": "10.77.0.2"}
_SSHD = """Port 2222
ListenAddress {address}
HostKey {folder}/host_key
PidFile {folder}/{name}.pid
AuthorizedKeysFile {folder}/key.pub
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
"""
_SSH = """Host node*
  Port 2222
  User root
  IdentityFile {folder}/key
  StrictHostKeyChecking no
  UserKnownHostsFile {folder}/known_hosts
  LogLevel ERROR
"""


def missing() -> str:
    """Why this machine cannot have such hosts; "" if it can."""
    if os.geteuid() != 0:
        return "needs root"
    lacks = [name for name in ("ip", "sshd", "ssh", "nsenter", "unshare") if not shutil.which(name)]
    if lacks:
        return f"needs {', '.join(lacks)}"
    name = f"try{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "network namespaces are not allowed here"
    _run("ip", "netns", "del", name)
    return ""


def _run(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


class TwoHosts:
    """nodea, where commands are started, and nodeb; made when entered."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._spaces = {name: f"{name}{os.getpid()}" for name in NAMES}

    def __enter__(self) -> "TwoHosts":
        try:
            self._keys()
            self._cable()
            for name in NAMES:
                self._server(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for name, space in self._spaces.items():
            for process in self._processes(space):
                os.kill(process, 9)
            subprocess.run(["ip", "netns", "del", space], capture_output=True)
            shutil.rmtree(f"/etc/netns/{space}", ignore_errors=True)
            (self._folder / f"{name}.pid").unlink(missing_ok=True)

    @staticmethod
    def _processes(space: str) -> list[int]:
        found = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True)
        return list(map(int, found.stdout.split()))

    def _keys(self) -> None:
        for name in ("host_key", "key"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self._folder / name)
        (self._folder / "ssh_config").write_text(_SSH.format(folder=self._folder))
        wrapper = self._folder / "bin" / "ssh"
        wrapper.parent.mkdir()
        config = self._folder / "ssh_config"
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
        wrapper.chmod(0o755)

    def _cable(self) -> None:
        a, b = self._spaces.values()
        for space in (a, b):
            _run("ip", "netns", "add", space)
        # Before the cable, as addresses are told in this order.
        _run("ip", "-n", a, "link", "add", "docker0", "type", "veth", "peer", "docker1")
        _run("ip", "-n", a, "link", "set", "docker0", "up")
        _run("ip", "link", "add", "cable", "netns", a, "type", "veth", "peer", "cable", "netns", b)
        for name, address in NAMES.items():
            space = self._spaces[name]
            _run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "cable")
            for link in ("lo", "cable"):
                _run("ip", "-n", space, "link", "set", link, "up")
            hosts = Path("/etc/netns", space, "hosts")  # `ip netns exec` mounts it
            hosts.parent.mkdir(parents=True)
            lines = ["127.0.0.1 localhost", *(f"{where} {who}" for who, where in NAMES.items())]
            hosts.write_text("\n".join(lines) + "\n")

    def _server(self, name: str) -> None:
        config = self._folder / f"{name}.conf"
        config.write_text(_SSHD.format(address=NAMES[name], folder=self._folder, name=name))
        Path("/run/sshd").mkdir(exist_ok=True)
        server = f"hostname {name}; exec {shutil.which('sshd')} -f {config}"
        space = ("ip", "netns", "exec", self._spaces[name])
        _run(*space, "unshare", "--uts", "--mount", "sh", "-c", server)
        for _ in range(100):
            if (self._folder / f"{name}.pid").exists():
                return
            time.sleep(0.05)
        raise RuntimeError(f"the ssh server of {name} does not start")

    def run(self, command: Sequence[str], **options) -> subprocess.CompletedProcess:
        """Run a command on nodea; output is captured."""
        inside, environment = self._on_nodea(command)
        return subprocess.run(inside, capture_output=True, text=True, env=environment, **options)

    def start(self, command: Sequence[str], **options) -> subprocess.Popen:
        """Start a command on nodea."""
        inside, environment = self._on_nodea(command)
        return subprocess.Popen(inside, env=environment, **options)

    def _on_nodea(self, command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        path = f"{self._folder / 'bin'}:{os.environ['PATH']}"
        inside = ["ip", "netns", "exec", self._spaces["nodea"], *command]
        return inside, {**os.environ, "PATH": path}

    def lose(self, name: str, is_silent: bool) -> None:
        """Kill all that runs on a host; silent: as by a power cut, no connection is closed."""
        space = self._spaces[name]
        if is_silent:
            _run("ip", "-n", space, "link", "set", "cable", "down")
        for process in self._processes(space):
            os.kill(process, 9)
        _run("ip", "-n", space, "link", "set", "cable", "down")
        (self._folder / f"{name}.pid").unlink()

    def bring_back(self, name: str) -> None:
        """A host that was lost is there again."""
        _run("ip", "-n", self._spaces[name], "link", "set", "cable", "up")
        self._server(name)

    @contextmanager
    def port_in_use(self, port: int) -> Iterator[None]:
        """Somebody listens on a port of nodea."""
        listen = f"import socket, time; s = socket.create_server(('', {port}))"
        code = f"{listen}; print('listening', flush=True); time.sleep(600)"
        command = ["ip", "netns", "exec", self._spaces["nodea"], "python3", "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            try:
                yield
            finally:
                process.kill()

    @contextmanager
    def other_network(self, address: str = "172.17.0.1") -> Iterator[None]:
        """nodea has an address first that nodeb cannot reach, as docker makes one."""
        ip = ("ip", "-n", self._spaces["nodea"])
        _run(*ip, "addr", "add", f"{address}/16", "dev", "docker0")
        try:
            yield
        finally:
            _run(*ip, "addr", "flush", "dev", "docker0")

    @contextmanager
    def mounted(self, *how: str | Path) -> Iterator[None]:
        """A mount that nodeb alone sees: arguments of mount, its place last."""
        enter = ("nsenter", "-t", (self._folder / "nodeb.pid").read_text().strip(), "-m")
        _run(*enter, "mount", *how)
        try:
            yield
        finally:
            _run(*enter, "umount", "-l", how[-1])

    @contextmanager
    def replaced(self, place: Path, text: str) -> Iterator[None]:
        """Another content of a file, on nodeb alone."""
        other = self._folder / f"instead_of_{place.name}"
        other.write_text(text)
        with self.mounted("--bind", other, place):
            yield

    @contextmanager
    def few_open_files(self, number: int = 100) -> Iterator[None]:
        """A low `ulimit -n` on nodeb."""
        process = (self._folder / "nodeb.pid").read_text().strip()
        limits = Path(f"/proc/{process}/limits").read_text().splitlines()
        row = next(line for line in limits if line.startswith("Max open files"))
        soft, hard = row.split()[3:5]
        _run("prlimit", "--pid", process, f"--nofile={number}:{hard}")
        try:
            yield
        finally:
            _run("prlimit", "--pid", process, f"--nofile={soft}:{hard}")
