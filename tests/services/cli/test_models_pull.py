"""Public weights pulled from a real server on this machine: terms, digests, broken lines."""

import asyncio
import hashlib
import json
import os
import signal
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from typer.testing import CliRunner

from pipeline.errors import UsageError
from services.cli.app import app
from services.pull import folder as pulling
from services.pull import sums
from services.pull.download import Patience, template
from services.pull.errors import PullFailed
from services.pull.folder import Order, Pulled
from services.pull.public import INDEX, PUBLIC, WEIGHTS, public
from tests.e2e.harness import ROOT
from tests.services.certificates import Authority

QUICK = Patience(tries=4, pause_s=0.01, quiet_s=30.0)
REVISION = "0123456789abcdef0123456789abcdef01234567"


def safetensors(size=300_000, seed=0):
    """Bytes in the format, of one tensor."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
    data = (hashlib.sha256(bytes([seed])).digest() * (size // 32 + 1))[:size]
    return len(header).to_bytes(8, "little") + header.encode() + data


FILES = {
    "config.json": b'{"model_type": "HumanOmni_qwen2"}',
    "tokenizer.json": b'{"version": "1.0"}',
    WEIGHTS: safetensors(),
}


def digest(data):
    return hashlib.sha256(data).hexdigest()


class Hub:
    """Serves ``files`` as hubs do and notes what was asked; the flags make it a bad one."""

    def __init__(self, files):
        self.files = dict(files)
        self.asked = []
        self.ranges = True
        self.tag = '"{}"'
        self.cut_at = []
        """How many bytes of the weights the next answers give before the line breaks."""
        self.busy = 0
        self.pause_s = 0.0
        self.moved = None

    async def serve(self, request):
        name = request.match_info["file"]
        self.asked.append((name, request.headers.get("Range")))
        if self.moved:
            return web.Response(status=302, headers={"Location": self.moved(name)})
        if self.busy:
            self.busy -= 1
            return web.Response(status=503)
        if name not in self.files:
            return web.Response(status=404)
        return await self._answer(request, name, self.files[name])

    async def _answer(self, request, name, data):
        tag = self.tag.format(digest(data)[:16])
        wanted, start = request.headers.get("Range"), 0
        if wanted and self.ranges and request.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        response = web.StreamResponse(status=206 if start else 200)
        response.headers["ETag"] = tag
        response.content_length = len(data) - start
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        await response.prepare(request)
        end = len(data)
        if name == WEIGHTS and self.cut_at:
            end = start + self.cut_at.pop(0)
        for at in range(start, end, 50_000):
            await asyncio.sleep(self.pause_s)
            await response.write(data[at : min(at + 50_000, end)])
        if end < len(data):
            await asyncio.sleep(0.05)
            request.transport.abort()
        return response

    @asynccontextmanager
    async def open(self, tls=None):
        made = web.Application()
        made.router.add_get("/{owner}/{repo}/resolve/{revision}/{file}", self.serve)
        runner = web.AppRunner(made, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            port = runner.addresses[0][1]
            yield f"http{'s' if tls else ''}://127.0.0.1:{port}"
        finally:
            await runner.cleanup()


@pytest.fixture
async def hub():
    made = Hub(FILES)
    async with made.open() as made.url:
        yield made


def order(hub, folder, digests=None, *, trust=False, name="R1-Omni-0.5B"):
    known = {each: digest(data) for each, data in hub.files.items()} if digests is None else digests
    return Order(public(name), template(hub.url), REVISION, folder, known, trust)


async def pulled(wanted):
    states = Pulled()
    await pulling.pull(wanted, lambda _: lambda _done, _total: None, states, QUICK)
    return states.states


async def invoke(*arguments, env=None):
    return await asyncio.to_thread(
        CliRunner().invoke, app, ["models", "pull", *map(str, arguments)], env=env or {}
    )


def wholly(folder, files):
    return all((folder / name).read_bytes() == data for name, data in files.items())


async def test_files_are_pulled_held_to_their_digests_and_not_fetched_twice(hub, tmp_path):
    assert await pulled(order(hub, tmp_path)) == dict.fromkeys(FILES, "fetched") | {
        name: "absent" for name in PUBLIC["R1-Omni-0.5B"].wished if name not in FILES
    }
    assert wholly(tmp_path, FILES)
    assert not list(tmp_path.glob("*.part*"))
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", sums.FILE], cwd=tmp_path, check=False, text=True,
        capture_output=True, timeout=30,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout
    count = len(hub.asked)
    states = await pulled(order(hub, tmp_path))
    assert {states[name] for name in FILES} == {"there"}
    assert len(hub.asked) == count


async def test_a_broken_line_is_taken_up_where_it_broke(hub, tmp_path):
    hub.cut_at = [100_000, 100_000]
    await pulled(order(hub, tmp_path))
    starts = [wanted for name, wanted in hub.asked if name == WEIGHTS]
    assert starts == [None, "bytes=100000-", "bytes=200000-"]
    assert wholly(tmp_path, FILES)


async def test_a_later_pull_goes_on_from_the_part(hub, tmp_path):
    hub.cut_at = [150_000, 0, 0, 0]
    with pytest.raises(PullFailed, match="goes on from here"):
        await pulled(order(hub, tmp_path))
    assert (tmp_path / f"{WEIGHTS}.part").stat().st_size == 150_000
    await pulled(order(hub, tmp_path))
    assert hub.asked[-1] == (WEIGHTS, "bytes=150000-")
    assert wholly(tmp_path, FILES)


@pytest.mark.parametrize("how", ["no ranges", "weak tag", "another file"])
async def test_what_cannot_go_on_begins_again(hub, tmp_path, how):
    if how == "weak tag":
        hub.tag = 'W/"{}"'
    hub.cut_at = [100_000, 0, 0, 0]
    with pytest.raises(PullFailed):
        await pulled(order(hub, tmp_path))
    if how == "no ranges":
        hub.ranges = False
    elif how == "another file":
        hub.files[WEIGHTS] = safetensors(seed=1)
    await pulled(order(hub, tmp_path))
    assert wholly(tmp_path, hub.files)


async def test_a_wrong_digest_removes_the_file(hub, tmp_path):
    known = {name: digest(data) for name, data in FILES.items()} | {WEIGHTS: "0" * 64}
    with pytest.raises(PullFailed, match=r"not the file that its digest promises.*removed"):
        await pulled(order(hub, tmp_path, known))
    assert not list(tmp_path.glob(f"{WEIGHTS}*"))
    assert WEIGHTS not in sums.read(tmp_path / sums.FILE)


async def test_what_came_first_is_held_later(hub, tmp_path):
    await pulled(order(hub, tmp_path, {}, trust=True))
    known = sums.read(tmp_path / sums.FILE)
    assert known == {name: digest(data) for name, data in FILES.items()}
    (tmp_path / WEIGHTS).unlink()
    hub.files[WEIGHTS] = safetensors(seed=1)
    with pytest.raises(PullFailed, match="not the file that its digest promises"):
        await pulled(order(hub, tmp_path, known, trust=True))


async def test_a_damaged_file_is_fetched_again(hub, tmp_path):
    await pulled(order(hub, tmp_path))
    (tmp_path / "config.json").write_bytes(b"{}")
    assert (await pulled(order(hub, tmp_path)))["config.json"] == "fetched"
    assert wholly(tmp_path, FILES)


async def test_split_weights_are_followed_by_their_index(hub, tmp_path):
    parts = {f"model-0000{n}-of-00002.safetensors": safetensors(90_000, n) for n in (1, 2)}
    index = json.dumps({"weight_map": {name: name for name in parts}}).encode()
    del hub.files[WEIGHTS]
    hub.files |= parts | {INDEX: index}
    await pulled(order(hub, tmp_path / "a"))
    await pulled(order(hub, tmp_path / "b", {}, trust=True))
    assert wholly(tmp_path / "a", hub.files)
    assert wholly(tmp_path / "b", hub.files)


@pytest.mark.parametrize("named", ["../config.json", "pytorch_model.bin", "a/b.safetensors", 7])
async def test_an_index_names_plain_safetensors_only(hub, tmp_path, named):
    del hub.files[WEIGHTS]
    hub.files[INDEX] = json.dumps({"weight_map": {"a": named}}).encode()
    with pytest.raises(PullFailed, match="does not name the parts"):
        await pulled(order(hub, tmp_path, {}, trust=True))


async def test_pickles_are_never_fetched(hub, tmp_path):
    del hub.files[WEIGHTS]
    hub.files["pytorch_model.bin"] = b"\x80\x04"
    with pytest.raises(PullFailed, match="pickles"):
        await pulled(order(hub, tmp_path, {}, trust=True))
    assert "pytorch_model.bin" not in [name for name, _ in hub.asked]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("config.json", b"<!doctype html>", "not the text or JSON"),
        (WEIGHTS, b"<!doctype html><title>Log in</title>", "not in the safetensors format"),
        (WEIGHTS, safetensors()[:-5], "cut short"),
    ],
)
async def test_a_page_is_no_model(hub, tmp_path, name, data, words):
    hub.files[name] = data
    with pytest.raises(PullFailed, match=words):
        await pulled(order(hub, tmp_path, {}, trust=True))
    assert not list(tmp_path.glob(f"{name}*"))


async def test_a_busy_server_is_asked_again_and_a_slow_one_waited_for(hub, tmp_path):
    hub.busy, hub.pause_s = 2, 0.02
    await pulled(order(hub, tmp_path))
    assert [name for name, _ in hub.asked[:3]] == ["config.json"] * 3
    assert wholly(tmp_path, FILES)


async def test_a_server_that_says_nothing_more_is_given_up(hub, tmp_path):
    hub.pause_s = 60.0
    silent = Patience(tries=2, pause_s=0.01, quiet_s=0.2)
    with pytest.raises(PullFailed, match="could not be fetched"):
        await pulling.pull(
            order(hub, tmp_path, {}, trust=True), lambda _: lambda *_: None, Pulled(), silent
        )


async def test_redirects_lead_to_https_only(hub, tmp_path):
    hub.moved = lambda name: f"http://127.0.0.1:1/{name}"
    with pytest.raises(PullFailed, match="redirects to http, which is not followed"):
        await pulled(order(hub, tmp_path))
    assert len(hub.asked) == 1


async def test_redirects_over_tls_are_followed_five_times(hub, tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*authority.server())
    other = Hub(FILES)
    async with other.open(tls) as other.url:
        hub.moved = lambda name: f"{other.url}/a/b/resolve/c/{name}"
        with pytest.raises(PullFailed, match="is not trusted: check the address"):
            await pulled(order(hub, tmp_path / "one"))
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        await pulled(order(hub, tmp_path / "one"))
        assert wholly(tmp_path / "one", FILES)
        other.moved = hub.moved
        other.asked.clear()
        with pytest.raises(PullFailed, match="more than 5 times"):
            await pulled(order(hub, tmp_path / "round"))
        assert len(other.asked) == 5


async def test_files_are_bounded(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(pulling, "WEIGHTS_AT_MOST", 1 << 17)
    with pytest.raises(PullFailed, match="larger than 0 MiB"):
        await pulled(order(hub, tmp_path))


async def test_a_full_disk_is_told_and_the_part_kept(hub, tmp_path):
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("this machine has no /dev/full")
    wanted = order(hub, tmp_path)
    part = pulling.Part(tmp_path / "a.json", "u")
    with part:
        os.close(part._file)
        part._file = os.open("/dev/full", os.O_WRONLY)
        with pytest.raises(PullFailed, match="the disk is full: make room"):
            part.add(b"1")
    assert await pulled(wanted)


async def test_two_pulls_do_not_meet_in_one_folder(hub, tmp_path):
    with pulling._alone(tmp_path), pytest.raises(UsageError, match="another pull is at work"):
        await pulled(order(hub, tmp_path))


async def test_the_command_shows_the_terms_first(hub, tmp_path):
    given = ("--to", tmp_path, "--revision", REVISION, "--from", hub.url, "--trust-first")
    result = await invoke("R1-Omni-0.5B", *given)
    assert result.exit_code == 2
    words = " ".join(result.stderr.split())
    assert "Apache-2.0" in words
    assert "at work or in education" in words
    assert "--accept-licence" in words
    assert not hub.asked
    result = await invoke("r1-omni-0.5b", *given, "--accept-licence")
    assert result.exit_code == 0, result.output
    assert "Nobody vouched for these files" in result.stdout
    assert wholly(tmp_path, FILES)


async def test_the_command_takes_digests_from_a_file_and_the_hub_from_a_variable(hub, tmp_path):
    listed = tmp_path / "sums"
    listed.write_text("".join(f"{digest(data)}  {name}\n" for name, data in FILES.items()))
    given = ("R1-Omni-0.5B", "--to", tmp_path / "out", "--revision", REVISION, "--accept-licence")
    env = {"DEMEANOR_MODELS_URL": hub.url}
    result = await invoke(*given, "--sha256sums", listed, env=env)
    assert result.exit_code == 0, result.output
    assert "Nobody vouched" not in result.stdout
    again = await invoke(*given, env=env)  # its own SHA256SUMS is enough now
    assert again.stdout.count("already there") == len(FILES)
    listed.write_text(listed.read_text().replace(digest(FILES[WEIGHTS]), "0" * 64))
    wrong = await invoke(*given, "--sha256sums", listed, env=env)
    assert wrong.exit_code == 1
    assert "removed" in wrong.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Wav2Vec"], "is not among the public weights: R1-Omni-0.5B"),
        (["bert-base-uncased"], "set DEMEANOR_MODELS_URL or give --from"),
        (["bert-base-uncased", "--from", "https://a"], "give --revision COMMIT"),
        (["bert-base-uncased", "--from", "http://a.b", "--revision", "x"], "cannot be pulled from"),
        (["bert-base-uncased", "--from", "https://u:p@a", "--revision", "x"], "without user name"),
        (["bert-base-uncased", "--from", "https://a", "--revision", "a/b"], "is no revision"),
        (["bert-base-uncased", "--from", "https://a", "--revision", "x"], "no digest is known of"),
        (["siglip-base-patch16-224", "--from", "https://a", "--revision", "x"], WEIGHTS),
        (["bert-base-uncased", "--from", "https://a", "--sha256sums", "none"], "cannot be read"),
    ],
)
async def test_wrong_use_is_one_sentence(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    if "--sha256sums" in arguments:
        arguments = [*arguments, "--revision", "x"]
    result = await invoke(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert words in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello  config.json\n", "line 1: is no line of sha256sum"),
        (f"{'a' * 64}  x.json\n{'b' * 64}  x.json\n", "line 2: another digest of x.json"),
    ],
)
def test_a_list_of_digests_is_read_strictly(tmp_path, text, words):
    (tmp_path / "sums").write_text(text)
    with pytest.raises(UsageError, match=words):
        sums.read(tmp_path / "sums")


def test_a_list_of_digests_may_name_more_than_is_wanted(tmp_path):
    lines = (f"{'A' * 64} *./config.json", f"{'b' * 64}  sub/x.json", f"{'c' * 64}  model.bin")
    (tmp_path / "sums").write_text("\n".join(("# by a friend", *lines)))
    assert sums.read(tmp_path / "sums") == {"config.json": "a" * 64}


async def test_ctrl_c_keeps_what_came(hub, tmp_path):
    hub.pause_s = 0.2
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", "models", "pull", "R1-Omni-0.5B", "--to",
        str(tmp_path), "--revision", REVISION, "--from", hub.url, "--trust-first",
        "--accept-licence", cwd=ROOT, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    part = tmp_path / f"{WEIGHTS}.part"
    async with asyncio.timeout(60):
        while not (part.exists() and part.stat().st_size):
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = await process.communicate()
    assert process.returncode == 130
    assert said.decode().splitlines()[-1].startswith("demeanor: stopped; what came is kept")
    assert 0 < part.stat().st_size < len(FILES[WEIGHTS])


def test_the_public_weights_are_listed_without_a_digest_that_nobody_knows():
    listed = json.loads(CliRunner().invoke(app, ["models", "public", "--json"]).output)
    assert listed.keys() == PUBLIC.keys()
    assert all(each["licence"] and each["policy"] for each in listed.values())
    assert all(each["revision"] is None for each in listed.values())
    assert "sha256" not in json.dumps(listed)
    text = CliRunner().invoke(app, ["models", "public"], env={"COLUMNS": "200"}).output
    assert all(name in text for name in PUBLIC)
