"""The node's network: its address, the pods' way out, and the removal of all of it."""

import re
import subprocess
from pathlib import Path
from typing import Final

from . import command
from .errors import ClusterError
from .settings import BRIDGE, NODE_IP, POD_CIDR

_MARK: Final = ("-m", "comment", "--comment", "windlass-cluster")
_RULES: Final = (
    # Pods reach the outside as the machine itself.
    ("nat", "POSTROUTING", ("-s", POD_CIDR, "!", "-d", POD_CIDR, "!", "-o", "lo", *_MARK, "-j", "MASQUERADE")),
    # A Docker engine sets the policy of FORWARD to DROP, and the bridge's traffic passes through it.
    ("filter", "FORWARD", ("-i", BRIDGE, *_MARK, "-j", "ACCEPT")),
    ("filter", "FORWARD", ("-o", BRIDGE, *_MARK, "-j", "ACCEPT")),
)
_LISTEN: Final = "0A"
_OUR_CHAINS: Final = re.compile(r"^:((?:KUBE|CNI)-\S+)")


def ensure() -> None:
    """Give the machine what the node needs; what is there already is left alone."""
    if not _has_address():
        # Not on a dummy device: many small VMs' kernels have no such module, and every kernel has lo.
        command.run(["ip", "address", "add", f"{NODE_IP}/32", "dev", "lo"], what=f"giving {NODE_IP} to lo")
    _set_kernel("net/ipv4/ip_forward", "pods cannot reach anything outside of their node")
    _set_kernel("net/bridge/bridge-nf-call-iptables", "a pod cannot reach a Service that leads back to its own node")
    for table, chain, rule in _RULES:
        if not command.succeeds(["iptables", "-w", "-t", table, "-C", chain, *rule]):
            command.run(["iptables", "-w", "-t", table, "-I", chain, *rule], what="adding an iptables rule")


def is_ready() -> bool:
    """Tell whether the node still has its address; the rest follows from the running pods."""
    return _has_address()


def _has_address() -> bool:
    shown = subprocess.run(["ip", "-o", "address", "show", "dev", "lo"], capture_output=True, text=True, check=False)
    return f" {NODE_IP}/" in shown.stdout


def _set_kernel(setting: str, consequence: str) -> None:
    file = Path("/proc/sys") / setting
    try:
        if file.read_text().strip() != "1":
            file.write_text("1\n")
    except OSError as error:
        name = setting.replace("/", ".")
        raise ClusterError(
            f"{name} cannot be set to 1 ({error.strerror}): without it {consequence}",
            where=str(file),
            todo=f"on the machine itself: `modprobe br_netfilter; sysctl -w {name}=1`, then `up` again",
        ) from error


def listening_ports() -> set[int]:
    """Return the TCP ports that somebody listens on.

    Read, not tried: before the node has its address, a connection to it leaves the machine, and who knows who answers.
    """
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state = line.split()[:4]
            if state == _LISTEN:
                ports.add(int(local.rpartition(":")[2], 16))
    return ports


def remove() -> None:
    """Take away the address, the bridge, our rules, and the chains of kube-proxy and CNI."""
    for table, chain, rule in _RULES:
        while command.succeeds(["iptables", "-w", "-t", table, "-D", chain, *rule]):
            pass
    for program in ("iptables", "ip6tables"):
        for table in ("nat", "filter", "mangle"):
            _remove_chains(program, table)
    if Path("/sys/class/net", BRIDGE).exists():
        command.succeeds(["ip", "link", "delete", BRIDGE])
    if _has_address():
        command.succeeds(["ip", "address", "delete", f"{NODE_IP}/32", "dev", "lo"])


def _remove_chains(program: str, table: str) -> None:
    """Empty our chains in one transaction: one call per rule takes seconds with a hundred Services."""
    saved = subprocess.run([f"{program}-save", "-t", table], capture_output=True, text=True, check=False)
    lines = saved.stdout.splitlines()
    chains = [match[1] for line in lines if (match := _OUR_CHAINS.match(line))]
    if not chains:
        return
    jumps = [
        line.replace("-A ", "-D ", 1)
        for line in lines
        if line.startswith("-A ")
        and line.split()[1] not in chains
        and line.rpartition("-j ")[2].split(" ")[0] in chains
    ]
    flush = [f":{chain} - [0:0]" for chain in chains]  # with --noflush, naming a chain empties it
    delete = [f"-X {chain}" for chain in chains]
    script = "\n".join([f"*{table}", *flush, *jumps, *delete, "COMMIT", ""])
    subprocess.run([f"{program}-restore", "--noflush"], input=script, text=True, capture_output=True, check=False)
