"""A real Asterisk as a child process: its own folder, its own ports, 127.0.0.1 only."""

import asyncio
import contextlib
import ctypes
import dataclasses
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastagi.demo.debian import DebianError, Tree

OLDEST = 18  # Asterisk before it lacks parts of the queue's manager actions


class AsteriskError(Exception):
    """Asterisk did not start, died, or did not answer its command line."""


@dataclass(frozen=True, slots=True)
class Program:
    """An Asterisk that can be started: how, and where its parts lie."""

    command: tuple[str, ...]
    modules: Path
    data: Path  # documentation and the like; sounds come from `sounds`
    sounds: Mapping[str, Path]  # language -> folder with agent-user.gsm and so on


@dataclass(frozen=True, slots=True)
class Extension:
    """A SIP phone that may register."""

    number: str
    password: str
    language: str = "en"


@dataclass(frozen=True, slots=True)
class Played:
    """One sound file played to a channel."""

    channel: str
    sound: str
    language: str


def on_machine() -> tuple[tuple[str, ...], Path, Path] | None:
    """The machine's own Asterisk, when there is one that is new enough: command, modules, data."""
    path = shutil.which("asterisk") or shutil.which("asterisk", path="/usr/sbin:/usr/local/sbin")
    if path is None:
        return None
    try:
        told = subprocess.run(
            [path, "-V"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"Asterisk (?:certified/)?(\d+)", told)
    if version is None or int(version[1]) < OLDEST:
        return None
    modules = [
        found.parent
        for base in (Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib"))
        for pattern in ("asterisk/modules/app_queue.so", "*/asterisk/modules/app_queue.so")
        for found in sorted(base.glob(pattern))
    ]
    data = [
        folder
        for folder in map(Path, ("/usr/share/asterisk", "/var/lib/asterisk"))
        if (folder / "documentation").is_dir()
    ]
    if not modules or not data:
        return None
    return (path,), modules[0], data[0]


def in_tree(tree: Tree) -> tuple[tuple[str, ...], Path, Path]:
    """The Asterisk among unpacked packages: command, modules, data."""
    for folder in tree.libraries():
        modules = folder / "asterisk" / "modules"
        if modules.is_dir():
            return tuple(tree.command("asterisk")), modules, tree.root / "usr/share/asterisk"
    raise DebianError(f"no Asterisk modules in {tree.root}")


def sounds_in(data: Path, languages: Sequence[str]) -> dict[str, Path]:
    """Folders with core sounds below a data folder, for those languages it has.

    Debian's packages call them after their speaker (``fr_CA_f_June``) and leave the name ``fr``
    to be set up when they are installed.
    """
    found = {}
    for language in languages:
        named = [data / "sounds" / language, *sorted(data.glob(f"sounds/{language}_*_*"))]
        for folder in named:
            if any(folder.glob("agent-user.*")):
                found[language] = folder
                break
    return found


def clipped(program: Program, folder: Path, *, seconds: float) -> Program:
    """The same Asterisk with every prompt cut short: who knows what is said need not wait for it.

    Only GSM files can be cut anywhere: 33 bytes for each 20 ms (3GPP TS 46.010). Others are
    taken whole, and so is silence, which is there for its length.
    """
    keep = max(1, round(seconds / 0.02)) * 33
    sounds = {}
    for language, whole in program.sounds.items():
        sounds[language] = folder / language
        for path in sorted(whole.rglob("*")):
            copy = folder / language / path.relative_to(whole)
            if path.is_dir():
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".gsm" and path.parent.name != "silence":
                with path.open("rb") as file:
                    copy.write_bytes(file.read(keep))
            else:
                _link(copy, path)
    return dataclasses.replace(program, sounds=sounds)


PORTS = range(10_000, 20_000)  # processes that run beside each other can have a part each
_given: set[int] = set()


def free_port(*, beside: int = 0) -> int:
    """A port of 127.0.0.1 that nobody has, for TCP and UDP, and so many right after it.

    Of ``PORTS``: below those the kernel hands out to outgoing connections, one of which could take
    a port between this look and its use. None twice, as long as there are others: whoever has one
    may be away for a while, as a server is that is started again.
    """
    for port in random.sample(range(PORTS.start, PORTS.stop - beside), 200):
        if port in _given and len(_given) < len(PORTS) // 2:
            continue
        with contextlib.ExitStack() as held:
            try:
                for number in range(port, port + beside + 1):
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                        probe = held.enter_context(socket.socket(type=kind))
                        probe.bind(("127.0.0.1", number))
            except OSError:
                continue
            _given.update(range(port, port + beside + 1))
            return port
    raise OSError("no free port on 127.0.0.1")


def dies_with_us(how: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """A function for the child to run before its program: it ends when we end, however we end.

    PR_SET_PDEATHSIG counts the thread that started the child as its parent (prctl(2)), so the
    child must be started by one that lives as long as we do.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("start it from the main thread: the child would end with this one")
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here, not after the fork

    def set_up() -> None:
        prctl(1, int(how))  # 1: PR_SET_PDEATHSIG

    return set_up


MODULES = (
    "app_db",
    "app_dial",
    "app_echo",
    "app_exec",
    "app_originate",
    "app_playback",
    "app_read",
    "app_sayunixtime",
    "app_senddtmf",
    "app_softhangup",
    "app_stack",
    "app_queue",
    "app_userevent",
    "app_verbose",
    "app_while",
    "app_playtones",
    "app_sendtext",
    "bridge_builtin_features",
    "bridge_holding",
    "bridge_native_rtp",
    "bridge_simple",
    "bridge_softmix",
    "chan_pjsip",
    "codec_a_mu",
    "codec_alaw",
    "codec_gsm",
    "codec_resample",
    "codec_ulaw",
    "format_gsm",
    "format_pcm",
    "format_sln",
    "format_wav",
    "format_wav_gsm",
    "func_callerid",
    "func_channel",
    "func_cut",
    "func_db",
    "func_devstate",
    "func_dialplan",
    "func_env",
    "func_extstate",
    "func_global",
    "func_groupcount",
    "func_hangupcause",
    "func_lock",
    "func_logic",
    "func_math",
    "func_module",
    "func_pjsip_aor",
    "func_pjsip_contact",
    "func_pjsip_endpoint",
    "func_presencestate",
    "func_rand",
    "func_sprintf",
    "func_strings",
    "func_timeout",
    "func_uri",
    "func_version",
    "pbx_config",
    "pbx_loopback",
    "res_agi",
    "res_convert",
    "res_crypto",
    "res_manager_devicestate",
    "res_manager_presencestate",
    "res_musiconhold",
    "res_pjproject",
    "res_pjsip",
    "res_pjsip_authenticator_digest",
    "res_pjsip_caller_id",
    "res_pjsip_dialog_info_body_generator",
    "res_pjsip_dlg_options",
    "res_pjsip_dtmf_info",
    "res_pjsip_endpoint_identifier_ip",
    "res_pjsip_endpoint_identifier_user",
    "res_pjsip_exten_state",
    "res_pjsip_header_funcs",
    "res_pjsip_logger",
    "res_pjsip_nat",
    "res_pjsip_outbound_authenticator_digest",
    "res_pjsip_outbound_publish",
    "res_pjsip_pidf_body_generator",
    "res_pjsip_pubsub",
    "res_pjsip_refer",
    "res_pjsip_registrar",
    "res_pjsip_rfc3326",
    "res_pjsip_sdp_rtp",
    "res_pjsip_session",
    "res_rtp_asterisk",
    "res_sorcery_astdb",
    "res_sorcery_config",
    "res_sorcery_memory",
    "res_speech",
    "res_timing_timerfd",
)

# Asterisk complains in red when these are missing, and does nothing with an empty one.
_EMPTY = {
    "acl.conf": "",
    "ccss.conf": "[general]\n",
    "cdr.conf": "[general]\nenable = no\n",
    "cel.conf": "[general]\nenable = no\n",
    "codecs.conf": "[plc]\ngenericplc = true\n",
    "extconfig.conf": "[settings]\n",
    "features.conf": "[general]\n",
    "http.conf": "[general]\nenabled = no\n",
    "pjproject.conf": "[startup]\ntype = startup\nlog_level = 0\n",
    "stasis.conf": "",
    "udptl.conf": "[general]\n",
    "indications.conf": """\
[general]
country = us

[us]
description = United States / North America
ringcadence = 2000,4000
dial = 350+440
busy = 480+620/500,0/500
ring = 440+480/2000,0/4000
congestion = 480+620/250,0/250
callwaiting = 440/300,0/10000
dialrecall = !350+440/100,!0/100,350+440
record = 1400/500,0/15000
info = !950/330,!1400/330,!1800/330,0
stutter = !350+440/100,!0/100,350+440
""",
}

QUEUES = {"701": "sales", "702": "support", "703": "billing"}


def default_extensions() -> list[Extension]:
    """1001 to 1006, each with a password of its own; the even ones speak French."""
    return [
        Extension(str(number), secrets.token_urlsafe(12), "en" if number % 2 else "fr")
        for number in range(1001, 1007)
    ]


@dataclass(slots=True)
class Asterisk:
    """One Asterisk. Start it from the main thread; all its files are in ``folder``.

    ``features``, ``queue_sections`` and ``manager_sections`` are texts from elsewhere: the
    dialplan with the context ``agent-features``, sections of queues.conf (or the whole file),
    and the section of manager.conf for the service. An empty text gets a plain default.
    ``more_dialplan`` is appended to extensions.conf; what it defines in ``[phones](+)`` can be
    dialled by every phone. ``qualify`` is how often, in seconds, Asterisk asks each phone whether
    it is there; 0: never, so that it believes in an unplugged phone until its registration expires.
    """

    folder: Path
    program: Program
    extensions: Sequence[Extension] = field(default_factory=default_extensions)
    queues: Mapping[str, str] = field(default_factory=lambda: dict(QUEUES))  # number -> name
    features: str = ""
    queue_sections: str = ""
    manager_sections: str = ""
    more_dialplan: str = ""
    language: str = "en"
    qualify: int = 0
    sip_port: int = 0
    ami_port: int = 0
    ami_username: str = "fastagi"
    ami_secret: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)
    admin_username: str = "admin"
    admin_secret: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False, repr=False)
    _born: int = field(default=0, init=False, repr=False)  # where in the log this start begins

    def __post_init__(self) -> None:
        self.folder = self.folder.absolute()
        self.sip_port = self.sip_port or free_port()
        self.ami_port = self.ami_port or free_port()

    # -- its files ------------------------------------------------------------------------

    @property
    def etc(self) -> Path:
        return self.folder / "etc"

    @property
    def log_path(self) -> Path:
        """Everything Asterisk says, verbose level 5."""
        return self.folder / "log" / "full"

    @property
    def queue_log_path(self) -> Path:
        return self.folder / "log" / "queue_log"

    def password(self, extension: str) -> str:
        return next(e.password for e in self.extensions if e.number == extension)

    def configure(self) -> None:
        """Write every file. A running Asterisk takes them in with ``reload``."""
        for name in ("etc", "run", "log", "var/keys", "spool", "data/sounds", "data/moh"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        data = self.folder / "data"
        for entry in self.program.data.iterdir():
            if entry.name not in ("sounds", "moh"):
                _link(data / entry.name, entry)
        for language, folder in self.program.sounds.items():
            _link(data / "sounds" / language, folder)
        quiet = next(iter(self.program.sounds.values()), None)
        if quiet is not None:  # music for those who wait in a queue: ten seconds of silence
            for sound in sorted(quiet.glob("silence/10.*")):
                _link(data / "moh" / sound.name, sound)
        files = {
            **_EMPTY,
            "asterisk.conf": self._asterisk_conf(),
            "modules.conf": "[modules]\nautoload = no\n"
            + "".join(f"load = {name}.so\n" for name in MODULES if self._has(name)),
            "logger.conf": "[general]\ndateformat = %F %T.%3q\nqueue_log = yes\n\n"
            "[logfiles]\nfull => notice,warning,error,verbose(5)\n",
            "rtp.conf": "[general]\nrtpstart = 20000\nrtpend = 29999\n",
            "musiconhold.conf": f"[default]\nmode = files\ndirectory = {data / 'moh'}\n",
            "manager.conf": self._manager_conf(),
            "pjsip.conf": self._pjsip_conf(),
            "queues.conf": self._queues_conf(),
            "extensions.conf": self._extensions_conf(),
            "agent-features.conf": self.features or "[agent-features]\n",
        }
        for name, text in files.items():
            path = self.etc / name
            path.write_text(text, encoding="utf-8")
            path.chmod(0o600)  # passwords are among them

    def _has(self, module: str) -> bool:
        return (self.program.modules / f"{module}.so").exists()

    def _asterisk_conf(self) -> str:
        # "[directories](!)", as the sample file has it, would mark a template and be ignored.
        # astrundir is relative because its socket's path may have 107 bytes only (unix(7)), and
        # folders of tests and of temporary files may be longer: all is started in our folder.
        return f"""\
[directories]
astetcdir => {self.etc}
astmoddir => {self.program.modules}
astvarlibdir => {self.folder}/var
astdbdir => {self.folder}/var
astkeydir => {self.folder}/var
astdatadir => {self.folder}/data
astagidir => {self.folder}/data/agi-bin
astspooldir => {self.folder}/spool
astrundir => run
astlogdir => {self.folder}/log
astcachedir => {self.folder}/var
astsbindir => {self.folder}

[options]
verbose = 5
nocolor = yes
hideconnect = yes
languageprefix = yes
defaultlanguage = {self.language}
autosystemname = no
systemname = demo
entityid = 02:00:00:00:00:01
"""

    def _manager_conf(self) -> str:
        sections = (
            self.manager_sections
            or f"""\
[{self.ami_username}]
secret = {self.ami_secret}
deny = 0.0.0.0/0.0.0.0
permit = 127.0.0.1/255.255.255.255
read = agent,call,system,user
write = agent,call,command,system,user,reporting
"""
        )
        return f"""\
[general]
enabled = yes
webenabled = no
bindaddr = 127.0.0.1
port = {self.ami_port}
displayconnects = no
authtimeout = 5

{sections}
[{self.admin_username}]
secret = {self.admin_secret}
deny = 0.0.0.0/0.0.0.0
permit = 127.0.0.1/255.255.255.255
read = all
write = all
"""

    def _pjsip_conf(self) -> str:
        text = f"""\
[global]
type = global
user_agent = Asterisk
endpoint_identifier_order = username,ip

[udp]
type = transport
protocol = udp
bind = 127.0.0.1:{self.sip_port}
"""
        for extension in self.extensions:
            number = extension.number
            text += f"""
[{number}]
type = endpoint
transport = udp
context = phones
subscribe_context = phones
disallow = all
allow = ulaw,alaw
dtmf_mode = rfc4733
direct_media = no
media_address = 127.0.0.1
bind_rtp_to_media_address = yes
language = {extension.language}
callerid = "{number}" <{number}>
auth = {number}
aors = {number}

[{number}]
type = auth
auth_type = userpass
username = {number}
password = {extension.password}

[{number}]
type = aor
max_contacts = 1
remove_existing = yes
qualify_frequency = {self.qualify}
qualify_timeout = 1.0
"""
        return text

    def _queues_conf(self) -> str:
        if "[general]" in self.queue_sections:
            return self.queue_sections
        sections = self.queue_sections or "".join(
            f"[{name}]\nstrategy = ringall\ntimeout = 15\nretry = 1\nwrapuptime = 0\n"
            "ringinuse = no\njoinempty = yes\nleavewhenempty = no\nannounce-frequency = 0\n\n"
            for name in self.queues.values()
        )
        return (
            "[general]\npersistentmembers = no\nautofill = yes\nmonitor-type = MixMonitor\n"
            "log_membername_as_agent = yes\n\n" + sections
        )

    def _extensions_conf(self) -> str:
        # A number of several phones would need a pattern; these are few, so each has its line.
        phones = "".join(
            f"exten => {e.number},1,Dial(PJSIP/{e.number},60)\n"
            f"exten => {e.number},hint,PJSIP/{e.number}\n"
            for e in self.extensions
        )
        queues = "".join(
            f"exten => {number},1,Queue({name})\n" for number, name in self.queues.items()
        )
        return f"""\
[general]
static = yes
writeprotect = yes
clearglobalvars = yes

[phones]
include => agent-features

{phones}
{queues}
; outside numbers, so that remote agents have somebody to be: one who repeats what is said
[outbound]
exten => _0X.,1,Answer()
 same => n,Echo()

#include agent-features.conf

{self.more_dialplan}
"""

    # -- its life -------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise AsteriskError("Asterisk was not started")
        return self._process.pid

    def start(self, *, within: float = 60) -> None:
        """Spawn it and wait until it has fully booted, at most so many seconds."""
        self.spawn()
        self.wait_booted(within=within)

    def spawn(self) -> None:
        """Start the process and return at once."""
        if self.running:
            raise AsteriskError("Asterisk is running already")
        self.configure()
        self._born = self.mark()
        with (self.folder / "log" / "console").open("ab") as console:
            self._process = subprocess.Popen(
                [*self._command(), "-f", "-n"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is for us to handle
                preexec_fn=dies_with_us(),  # prctl only: safe after a fork
            )

    def wait_booted(self, *, within: float = 60) -> None:
        """Wait until every module is loaded.

        Raises:
            AsteriskError: it died or is not up after so many seconds; ends with its last words.
        """
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            if not self.running:
                raise AsteriskError(f"Asterisk ended while starting\n{self._last_words()}")
            with contextlib.suppress(AsteriskError):
                if "fully booted" in self.cli("core waitfullybooted", within=within):
                    break
            time.sleep(0.05)
        else:
            raise AsteriskError(f"Asterisk is not up after {within:g} s\n{self._last_words()}")
        # It runs happily without its ports; nobody here could.
        taken = [
            line
            for line in self.log_since(self._born).splitlines()
            if "Address already in use" in line
        ]
        if taken:
            self.stop()
            raise AsteriskError("\n".join(taken))

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end; calls in progress are hung up."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> "Asterisk":
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- talking to it --------------------------------------------------------------------

    def cli(self, command: str, *, within: float = 15) -> str:
        """What Asterisk's command line answers. Blocks for some 10 ms: keep it off the loop.

        Raises:
            AsteriskError: it is not there, or silent for so many seconds.
        """
        if any(ord(character) < 32 for character in command):
            raise ValueError("a command is one line")
        try:
            result = subprocess.run(
                [*self._command(), "-rx", command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=within,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise AsteriskError(f"no answer to {command!r} within {within:g} s") from error
        if result.returncode:
            raise AsteriskError(f"{command!r}: {(result.stderr or result.stdout).strip()}")
        return result.stdout

    async def ask(self, command: str, *, within: float = 15) -> str:
        """``cli`` without holding up the event loop."""
        return await asyncio.to_thread(self.cli, command, within=within)

    def reload(self, what: str) -> None:
        """Write the files and take in ``dialplan``, ``queues``, ``manager`` or ``pjsip``."""
        commands = {
            "dialplan": "dialplan reload",
            "queues": "queue reload all",
            "manager": "manager reload",
            "pjsip": "module reload res_pjsip.so",
        }
        self.configure()
        self.cli(commands[what])

    def _command(self) -> list[str]:
        return [*self.program.command, "-C", str(self.etc / "asterisk.conf")]

    def _last_words(self) -> str:
        words: list[str] = []
        for path in (self.folder / "log" / "console", self.log_path):
            if path.exists():
                words += path.read_text(errors="replace").splitlines()[-15:]
        return "\n".join(words)

    # -- what it said ---------------------------------------------------------------------

    def mark(self) -> int:
        """A place in the log, for ``prompts`` and ``log_since``."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def log_since(self, mark: int = 0) -> str:
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as file:
            file.seek(mark)
            return file.read().decode(errors="replace")

    def prompts(self, channel: str = "", *, since: int = 0) -> list[Played]:
        """Sound files played to channels whose name starts so, in order."""
        return [
            played
            for played in parse_log(self.log_since(since))
            if played.channel.startswith(channel)
        ]

    def played(self, channel: str = "", *, since: int = 0) -> list[str]:
        """Names of the sound files alone, without folder of language and without ending."""
        return [played.sound for played in self.prompts(channel, since=since)]


# <PJSIP/1001-00000001> Playing 'agent-loginok.gsm' (language 'en')
_PLAYING = re.compile(
    r"<(?P<channel>[^>\s]+)> Playing '(?P<sound>[^']+)' .*?\(language '(?P<language>[^']*)'\)"
)


def parse_log(text: str) -> list[Played]:
    """The sounds played according to Asterisk's verbose log."""
    return [
        Played(match["channel"], match["sound"].rsplit(".", 1)[0], match["language"])
        for match in _PLAYING.finditer(text)
    ]


def _link(path: Path, target: Path) -> None:
    with contextlib.suppress(FileExistsError):
        path.symlink_to(target.absolute())
