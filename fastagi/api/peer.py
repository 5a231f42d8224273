"""Whose process is at the other end of a connection on this machine.

Without tokens whoever is on this machine is trusted. A reverse proxy is on this machine too, and
speaks for everybody; the account it runs as shows what its requests do not.
"""

import errno
import os
import pwd
import socket
import struct
import sys
from contextlib import suppress

_SOCK_DIAG = 4  # the protocol of netlink (linux/netlink.h)
_BY_FAMILY = 20  # linux/sock_diag.h
_REQUEST = struct.Struct("=IHHII BBBBI HH 16s16s III")  # nlmsghdr, inet_diag_req_v2
_ERROR = 2  # NLMSG_ERROR
_UID = 80  # where inet_diag_msg has it, behind the nlmsghdr; then the inode
_TIMEOUT = 1.0  # seconds; the kernel answers at once

_LAST_OF_SERVICES = 999  # accounts up to here are services' (login.defs: SYS_UID_MAX)
_NOBODY = 65534
_TRUSTED = frozenset({"asterisk"})  # its dialplan and scripts speak for nobody from elsewhere


GONE = -1  # nobody has that socket any more; to the kernel it is root's then


def owner(own: tuple[str, int], peer: tuple[str, int]) -> int | None:
    """The user id of the process that has the socket ``peer``, which is connected to ``own``; GONE
    when it has none; None where the system does not say."""
    if not sys.platform.startswith("linux"):
        return None
    family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
    try:
        source, target = (
            socket.inet_pton(family, address.partition("%")[0]).ljust(16, b"\0")
            for address in (peer[0], own[0])
        )
        question = _REQUEST.pack(
            *(_REQUEST.size, _BY_FAMILY, 1, 1, 0),
            *(family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF),
            *(socket.htons(peer[1]), socket.htons(own[1]), source, target),
            *(0, 0xFFFFFFFF, 0xFFFFFFFF),
        )
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as netlink:
            netlink.settimeout(_TIMEOUT)
            netlink.send(question)
            answer = netlink.recv(4096)
    except OSError:
        return None
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind == _ERROR:
        return GONE if struct.unpack_from("=i", answer, 16)[0] == -errno.ENOENT else None
    if kind != _BY_FAMILY or len(answer) < _UID + 8:
        return None
    uid: int
    inode: int
    uid, inode = struct.unpack_from("=II", answer, _UID)
    return uid if inode else GONE


def speaks_for_others(uid: int | None) -> str | None:
    """The account, where it is a service's, as those of proxies are."""
    if uid == GONE:
        return "nobody"
    if uid is None or uid == os.geteuid() or not (0 < uid <= _LAST_OF_SERVICES or uid == _NOBODY):
        return None
    name = str(uid)
    with suppress(KeyError):
        name = pwd.getpwuid(uid).pw_name
    return None if name in _TRUSTED else name
