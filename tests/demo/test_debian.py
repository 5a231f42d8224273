"""Debian packages are found, fetched once, unpacked and run where they lie."""

import multiprocessing
import os
import re
import shutil
import subprocess
import tempfile
import threading
import warnings
from pathlib import Path

import pytest

from fastagi.demo import debian
from fastagi.demo.debian import DebianError, Source

BOOKWORM = {"ID": "debian", "VERSION_CODENAME": "bookworm"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with one small tree in it: hello and the C library."""
    cache = tmp_path_factory.mktemp("cache")
    debian.unpacked(["hello"], cache=cache)
    return cache


def test_a_program_runs_with_the_libraries_of_its_own_tree(cache: Path) -> None:
    tree = debian.unpacked(["hello"], cache=cache)
    command = tree.command("hello")
    assert all(word.startswith((str(cache), "--library-path")) for word in command)
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout == "Hello, world!\n"
    with pytest.raises(DebianError, match="nothing-like-it"):
        tree.command("nothing-like-it")


def test_a_second_time_nothing_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_build", lambda *_: pytest.fail("fetched again"))
    assert debian.unpacked(["hello"], cache=cache).root.is_dir()


def test_nothing_but_the_tree_stays_in_the_cache(cache: Path) -> None:
    names = sorted(path.suffix for path in (cache / "debian").iterdir())
    assert names == ["", ".lock"]


def test_two_at_once_build_one_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    build = debian._build

    def counted(*arguments: object) -> None:
        started.append(arguments)
        build(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(debian, "_build", counted)
    trees: list[debian.Tree] = []
    said: list[str] = []

    def ask() -> None:
        trees.append(
            debian.unpacked(
                ["hello"],
                cache=tmp_path,
                on_progress=lambda d, t, text: said.append(text),
            )
        )

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1
    assert len(trees) == 2
    assert trees[0] == trees[1]
    assert "unpacked" in said
    assert any("waiting for another" in text for text in said)


def test_an_interrupted_build_leaves_no_tree_and_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(done: int, total: int, text: str) -> None:
        if text.startswith("unpacking"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        debian.unpacked(["hello"], cache=tmp_path, on_progress=stopped)
    assert [path for path in (tmp_path / "debian").iterdir() if path.suffix == ""] == []
    kept = {
        path.name: path.stat().st_mtime_ns for path in tmp_path.glob("debian/*.work/archives/*.deb")
    }
    assert kept
    seen: dict[str, int] = {}

    def look(done: int, total: int, text: str) -> None:
        if text.startswith("unpacking"):
            found = tmp_path.glob("debian/*.work/archives/*.deb")
            seen.update({path.name: path.stat().st_mtime_ns for path in found})

    tree = debian.unpacked(["hello"], cache=tmp_path, on_progress=look)
    assert subprocess.run(tree.command("hello"), capture_output=True, check=True).stdout
    assert seen == kept  # the same files, not fetched anew


def test_a_package_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DebianError, match="no-such-package-anywhere"):
        debian.unpacked(["no-such-package-anywhere"], cache=tmp_path)
    with pytest.raises(DebianError, match="no-such-package-anywhere"):
        debian.unpacked(["no-such-package-anywhere"], dependencies=False, cache=tmp_path)


def test_packages_alone_without_what_they_depend_on(tmp_path: Path) -> None:
    tree = debian.unpacked(["hello"], dependencies=False, cache=tmp_path)
    assert tree.find("hello").exists()
    assert tree.libraries() == []


def test_a_machine_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DebianError, match="Debian and Ubuntu only"):
        debian.unpacked(["hello"], cache=tmp_path)


def test_an_ordinary_user_can_do_it() -> None:
    """Not as root, with a home directory that has nothing in it."""
    home = Path(tempfile.mkdtemp(prefix="fastagi-home-"))  # pytest's own is closed to others
    debian.cache_folder()  # imports what nobody may not be able to read

    def as_nobody() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        os.environ["HOME"] = str(home)
        os.environ.pop("XDG_CACHE_HOME", None)
        os.chdir(home)
        tree = debian.unpacked(["hello"])
        assert tree.root.is_relative_to(home / ".cache" / "fastagi-agentd")
        told = subprocess.run(tree.command("hello"), capture_output=True, text=True, check=True)
        assert told.stdout == "Hello, world!\n"

    try:
        if os.geteuid() == 0:
            os.chown(home, 65534, 65534)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside other threads
            child = multiprocessing.get_context("fork").Process(target=as_nobody)
            child.start()
        child.join()
        assert child.exitcode == 0
    finally:
        shutil.rmtree(home)


# -- the machine's apt sources ------------------------------------------------------------


def test_one_line_sources() -> None:
    text = """\
# deb http://old.invalid/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://a.invalid/debian bookworm main contrib # ours
deb-src http://a.invalid/debian bookworm main
deb http://b.invalid/debian bookworm-updates main
deb cdrom:[Debian]/ bookworm main
"""
    assert list(debian.parse_one_line(text))[:2] == [
        Source(
            "http://a.invalid/debian",
            ("bookworm",),
            ("main", "contrib"),
            (("Signed-By", "/k.gpg"),),
        ),
        Source("http://b.invalid/debian", ("bookworm-updates",), ("main",)),
    ]


def test_deb822_sources() -> None:
    text = """\
Types: deb deb-src
# a remark
URIs: http://a.invalid/debian http://b.invalid/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://c.invalid/debian
Suites: bookworm
Components: main
Enabled: no
"""
    key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc"
    found = list(debian.parse_deb822(text))
    assert [source.uri for source in found] == [
        "http://a.invalid/debian",
        "http://b.invalid/debian",
    ]
    assert found[0].options == (("Signed-By", key),)
    assert f"Signed-By: {key}\n" in found[0].stanza(["sid"], ["main"])


def test_sources_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.invalid/debian bookworm main\n")
    (tmp_path / "sources.list.d" / "b.list").write_text("deb http://b.invalid/debian sid main\n")
    (tmp_path / "sources.list.d" / "c.sources").write_text(
        "Types: deb\nURIs: http://c.invalid/debian\nSuites: trixie\nComponents: main\n"
    )
    (tmp_path / "sources.list.d" / "d.sources.disabled").write_text("Types: deb\nURIs: x\n")
    assert [source.uri[7] for source in debian.machine_sources(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("sources", "chosen"),
    [
        # the security archive and a vendor's are not the distribution's own
        (["security bookworm-security main", "vendor bookworm stable", "own bookworm main"], "own"),
        (["own stable main"], "own"),
        (["own sid main contrib non-free-firmware"], "own"),
    ],
)
def test_the_archive_is_chosen(sources: list[str], chosen: str) -> None:
    made = []
    for line in sources:
        uri, suite, *components = line.split()
        made.append(Source(uri, (suite,), tuple(components)))
    assert debian.archive(made, "bookworm").uri == chosen


def test_a_vendor_with_the_release_name_as_suite_is_not_the_archive() -> None:
    vendor = Source("vendor", ("bookworm",), ("main",), (("Signed-By", "/vendor.gpg"),))
    own = Source(
        "own",
        ("bookworm",),
        ("main",),
        (("Signed-By", "/usr/share/keyrings/debian-archive-keyring.gpg"),),
    )
    assert debian.archive([vendor, own], "bookworm") is own


def test_no_archive_at_all() -> None:
    with pytest.raises(DebianError, match="install Asterisk"):
        debian.archive([Source("x", ("bookworm-security",), ("main",))], "bookworm")


def test_debian_takes_sid_and_ubuntu_its_own_universe() -> None:
    text, suite = debian.sources_text(
        [Source("http://a.invalid/debian", ("bookworm",), ("main",))], BOOKWORM
    )
    assert suite == "sid"
    assert "Suites: sid\nComponents: main\n" in text
    release = {"ID": "ubuntu", "VERSION_CODENAME": "noble"}
    text, suite = debian.sources_text(
        [Source("http://a.invalid/ubuntu", ("noble",), ("main",))], release
    )
    assert suite == "noble"
    assert "Suites: noble\nComponents: main universe\n" in text


def test_a_link_where_the_lock_should_be_empties_nothing(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("all of it")
    lock = tmp_path / "x.lock"
    lock.symlink_to(precious)
    with (
        pytest.raises(DebianError, match=re.escape(str(lock))),
        debian._locked(lock, lambda *_: None),
    ):
        pass
    assert precious.read_text() == "all of it"


def test_programs_of_another_user_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "debian" / "sid"
    tree.mkdir(parents=True)
    assert debian._trusted(tree).root == tree
    link = tmp_path / "debian" / "link"
    link.symlink_to(tree)
    with pytest.raises(DebianError, match="is a link or belongs to another user"):
        debian._trusted(link)
    owner = tree.stat().st_uid
    monkeypatch.setattr(debian.os, "getuid", lambda: owner + 1)
    if owner != 0:  # root's are trusted
        with pytest.raises(DebianError, match="another user"):
            debian._trusted(tree)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_tree_that_was_given_away(tmp_path: Path) -> None:
    tree = tmp_path / "debian" / "sid"
    tree.mkdir(parents=True)
    os.chown(tree, 65534, 65534)
    with pytest.raises(DebianError, match=re.escape(str(tree))):
        debian._trusted(tree)
