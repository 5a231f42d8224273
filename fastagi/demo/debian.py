"""Debian packages unpacked into a folder of one's own, without root and without installing them.

Asterisk left Debian's stable releases, so the packages come from the same mirror the machine
already uses, out of the suite that has them. apt does the choosing, fetching and checking of
signatures, with a private state in which nothing is installed, so that it fetches every
dependency down to the C library; the programs then run through the loader of that very tree
and do not care which release the machine itself has.
"""

import fcntl
import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is being done); totals may differ between calls."""

# Raised when the layout of a finished tree changes, so that older trees are built anew.
_LAYOUT = 1

_MAIN_SUITES = frozenset({"stable", "oldstable", "testing", "unstable", "sid"})


class DebianError(Exception):
    """A tree could not be made; the message says why and what to do about it."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where this machine gets its Debian packages: a mirror and how it is trusted."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()  # deb822 fields such as Signed-By, kept verbatim

    def stanza(self, suites: Sequence[str], components: Sequence[str]) -> str:
        """The same mirror and trust for other suites, as a deb822 stanza."""
        fields = [
            ("Types", "deb"),
            ("URIs", self.uri),
            ("Suites", " ".join(suites)),
            ("Components", " ".join(components)),
            *self.options,
        ]
        return "".join(f"{name}: {value}\n" for name, value in fields) + "\n"


@dataclass(frozen=True, slots=True)
class Tree:
    """Unpacked packages, and how their programs are started where they lie."""

    root: Path

    def find(
        self, name: str, folders: Sequence[str] = ("usr/sbin", "usr/bin", "sbin", "bin")
    ) -> Path:
        """The path of a program.

        Raises:
            DebianError: the tree has no such program.
        """
        for folder in folders:
            path = self.root / folder / name
            if path.exists():
                return path
        raise DebianError(f"{name} is not among the packages in {self.root}")

    def libraries(self) -> list[Path]:
        """The folders with shared libraries, the architecture's own first."""
        return [
            path
            for pattern in ("usr/lib/*-linux-*", "lib/*-linux-*", "usr/lib", "lib")
            for path in sorted(self.root.glob(pattern))
            if path.is_dir() and any(path.glob("*.so*"))
        ]

    def loader(self) -> Path:
        """The dynamic loader: ld-linux-x86-64.so.2, ld-linux-aarch64.so.1 and the like."""
        for folder in self.libraries():
            for path in sorted(folder.glob("ld-linux*.so.*")):
                return path
        raise DebianError(f"no dynamic loader in {self.root}")

    def command(self, name: str) -> list[str]:
        """What to put before a program's own arguments to run it.

        Setting LD_LIBRARY_PATH instead would reach the program's children too, and break those
        that belong to the machine.
        """
        libraries = ":".join(map(str, self.libraries()))
        return [str(self.loader()), "--library-path", libraries, str(self.find(name))]


def cache_folder() -> Path:
    return Path(platformdirs.user_cache_dir("fastagi-agentd", appauthor=False))


def os_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {name.strip(): value.strip().strip("\"'") for name, value in pairs}


def machine_sources(folder: Path = Path("/etc/apt")) -> list[Source]:
    """What stands in the machine's own apt sources, in both of apt's formats."""
    found: list[Source] = []
    for path in [folder / "sources.list", *sorted(folder.glob("sources.list.d/*.list"))]:
        if path.is_file():
            found += parse_one_line(path.read_text(errors="replace"))
    for path in sorted(folder.glob("sources.list.d/*.sources")):
        found += parse_deb822(path.read_text(errors="replace"))
    return found


def parse_one_line(text: str) -> Iterator[Source]:
    """``deb [signed-by=…] URI SUITE COMPONENT…`` (sources.list(5), one-line style)."""
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<rest>[^#]+)", line.strip())
        words = match["rest"].split() if match else []
        if match is None or len(words) < 3:
            continue
        given = dict(
            option.split("=", 1) for option in (match["options"] or "").split() if "=" in option
        )
        options = tuple(
            (field, given[name])
            for name, field in (("signed-by", "Signed-By"), ("trusted", "Trusted"))
            if name in given
        )
        yield Source(words[0], (words[1],), tuple(words[2:]), options)


def parse_deb822(text: str) -> Iterator[Source]:
    """Stanzas of ``Types: deb``, ``URIs: …`` (sources.list(5), deb822 style)."""
    for block in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t"):  # a continuation, such as a key written into the file
                fields[name] = f"{fields.get(name, '')}\n{line}"
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.strip().lower()
                fields[name] = value.strip()
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "0", "off")
        if not enabled or "deb" not in fields.get("types", "").split():
            continue
        options = tuple(
            (field, fields[field.lower()])
            for field in ("Signed-By", "Trusted")
            if field.lower() in fields
        )
        for uri in fields.get("uris", "").split():
            yield Source(
                uri,
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                options,
            )


def archive(sources: Sequence[Source], codename: str) -> Source:
    """The distribution's own archive among the sources: not a vendor's, not the security one.

    Raises:
        DebianError: there is none.
    """
    wanted = _MAIN_SUITES | {codename}
    own = [
        source
        for source in sources
        if not source.uri.startswith("cdrom:")
        and "main" in source.components
        and wanted & set(source.suites)
    ]
    if not own:
        raise DebianError(
            "this machine's apt sources name no Debian or Ubuntu archive with a main component; "
            "install Asterisk and baresip yourself, or add the archive to /etc/apt"
        )
    # Vendors use a release's name as their suite too, but sign with a key of their own.
    keyed = [
        s
        for s in own
        if re.search(r"(debian|ubuntu)-archive", dict(s.options).get("Signed-By", ""))
    ]
    return (keyed or own)[0]


def sources_text(sources: Sequence[Source], release: dict[str, str]) -> tuple[str, str]:
    """The deb822 text to fetch from, and the suite's name.

    Debian: sid, the one suite that always has Asterisk. Ubuntu has it in its universe.
    """
    codename = release.get("VERSION_CODENAME", "")
    source = archive(sources, codename)
    if "ubuntu" in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        return source.stanza([codename], ["main", "universe"]), codename
    return source.stanza(["sid"], ["main"]), "sid"


def unpacked(
    packages: Sequence[str],
    *,
    dependencies: bool = True,
    cache: Path | None = None,
    on_progress: Progress | None = None,
) -> Tree:
    """A tree with these packages, made once and found again in the cache afterwards.

    Blocks for as long as the download takes. Several processes may ask at once: one works, the
    others wait for it. What was fetched before an interruption is not fetched again.

    Raises:
        DebianError: no apt here, no network, or no such package.
    """
    report = on_progress or (lambda done, total, text: None)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise DebianError("apt-get and dpkg-deb are needed: this works on Debian and Ubuntu only")
    architecture = _output(["dpkg", "--print-architecture"]).strip()
    text, suite = sources_text(machine_sources(), os_release())
    recipe = repr((_LAYOUT, sorted(packages), dependencies, suite, architecture))
    name = f"{suite}-{architecture}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    base = (cache or cache_folder()) / "debian"
    root = base / name
    if root.is_dir():
        return _trusted(root)
    try:
        base.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DebianError(
            f"{error.filename}: {error.strerror}: the cache cannot be made"
        ) from error
    with _locked(base / f"{name}.lock", report):
        if not root.is_dir():
            _build(root, base / f"{name}.work", packages, dependencies, text, report)
    return _trusted(root)


def _trusted(root: Path) -> Tree:
    """The tree, when nobody else can have put it there: its programs will be run.

    Raises:
        DebianError: it, or the folder it lies in, belongs to another user, or is a link.
    """
    for path in (root, root.parent):
        owner = path.lstat()
        if stat.S_ISLNK(owner.st_mode) or owner.st_uid not in (0, os.getuid()):
            raise DebianError(
                f"{path} is a link or belongs to another user: its programs are not run; "
                "remove it, or name a cache folder of your own"
            )
    return Tree(root)


def _build(
    root: Path,
    work: Path,
    packages: Sequence[str],
    dependencies: bool,
    sources: str,
    report: Progress,
) -> None:
    options = _private_apt(work, sources)
    report(0, 100, "reading the package lists")
    _run([*options, "update", "-qq", "-o", "APT::Update::Error-Mode=any"])
    archives = work / "archives"
    if dependencies:
        wanted = ["install", "--no-install-recommends", "--download-only", "--yes", *packages]
        _fetch([*options, "-qq", *wanted], archives, report)
    else:
        _fetch([*options, "-qq", "download", *packages], archives, report)
    debs = sorted(archives.glob("*.deb"))
    if not debs:
        raise DebianError(f"apt fetched nothing for {' '.join(packages)}")
    unpack = work / "tree"
    shutil.rmtree(unpack, ignore_errors=True)
    unpack.mkdir()
    for number, deb in enumerate(debs):
        report(number, len(debs), f"unpacking {deb.name.split('_')[0]}")
        _output(["dpkg-deb", "--extract", str(deb), str(unpack)])
    report(len(debs), len(debs), "unpacked")
    unpack.rename(root)  # from here on the tree counts as finished
    shutil.rmtree(work, ignore_errors=True)


def _private_apt(work: Path, sources: str) -> list[str]:
    """An apt that knows the machine's way to the network but nothing of what is installed."""
    for folder in ("lists/partial", "archives/partial", "cache"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    (work / "status").write_text("")
    (work / "fastagi.sources").write_text(sources)
    settings = work / "apt.conf"
    settings.write_text(
        f"""\
Dir::State "{work}";
Dir::State::lists "{work}/lists";
Dir::State::status "{work}/status";
Dir::State::extended_states "{work}/extended_states";
Dir::Cache "{work}/cache";
Dir::Cache::archives "{work}/archives";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{work}/sources.d";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Log "{work}";
// The suite's index may be older than its own date of expiry on a mirror that lags behind.
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::Retries "3";
// The cache belongs to the user who runs this; apt's own user could not write there.
APT::Sandbox::User "";
APT::Get::List-Cleanup "false";
Debug::NoLocking "true";
// What the machine does after its own updates is not ours to trigger.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
"""
    )
    (work / "sources.d").mkdir(exist_ok=True)
    (work / "fastagi.sources").replace(work / "sources.d" / "fastagi.sources")
    # -c is read after the machine's own settings, so these win (apt.conf(5)).
    return ["apt-get", "-c", str(settings)]


def _fetch(command: list[str], folder: Path, report: Progress) -> None:
    """Run apt and turn its status lines into progress.

    apt writes ``dlstatus:<files>:<percent>:<text>`` to the descriptor APT::Status-Fd names.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, errors="replace") as status, tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [*command, "-o", f"APT::Status-Fd={writing}"],
                cwd=folder,
                env=_environment(),
                pass_fds=[writing],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        finally:
            os.close(writing)
        try:
            for line in status:
                kind, *rest = line.rstrip("\n").split(":", 3)
                if kind == "dlstatus" and len(rest) == 3:
                    report(int(float(rest[1])), 100, "downloading packages")
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code:
            output.seek(0)
            raise _failure(command, output.read().decode(errors="replace"))


def _run(command: list[str]) -> None:
    result = subprocess.run(
        command,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode:
        raise _failure(command, result.stdout)


def _output(command: list[str]) -> str:
    try:
        result = subprocess.run(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise DebianError(f"{command[0]}: {error.strerror}") from error
    if result.returncode:
        raise _failure(command, result.stderr)
    return result.stdout


def _failure(command: list[str], output: str) -> DebianError:
    words = [word for word in command if word in ("update", "install", "download", "--extract")]
    lines = [line for line in output.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("E:", "Err", "dpkg-deb:"))] or lines
    return DebianError(f"{Path(command[0]).name} {' '.join(words)} failed: " + "\n".join(told[-8:]))


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


@contextmanager
def _locked(path: Path, report: Progress) -> Iterator[None]:
    # A link is not followed, and nothing is emptied: in a folder that others can write to, one
    # may lie there already.
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DebianError(f"{path}: {error.strerror}: the cache cannot be locked") from error
    with os.fdopen(number, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(0, 100, "waiting for another process that is fetching the same packages")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
