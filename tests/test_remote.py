"""Files elsewhere, from servers on loopback: HTTP that fails on cue, and one that speaks S3."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.helpers.clips import Exactly
from tests.helpers.servers import Files
from vidcap_cli.addresses import locate
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import UsageError
from vidcap_cli.remote import access
from vidcap_cli.remote import cache as cache_module
from vidcap_cli.remote.access import unreadable
from vidcap_cli.remote.cache import Anywhere, Cache, caching, make_private
from vidcap_cli.remote.table import bring_table
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan
from vidcap_cli.spans import Span
from vidcap_cli.video import VideoError, read_frames
from vidcap_cli.video import pool as pool_module
from vidcap_cli.video.pool import DecodePool

SIZE = 300_000


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.bin").write_bytes(np.random.default_rng(0).bytes(SIZE))
    server = Files(folder)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", 10_000_000)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(cache_module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(cache_module, "_BLOCK", 65_536)


def get(cache, address):
    with cache.held(address) as file:
        return file.read_bytes()


def test_a_file_is_brought_once(files, cache):
    address = files.address("a.bin")
    whole = (files.folder / "a.bin").read_bytes()
    assert get(cache, address) == whole
    count = len(files.asked)
    assert get(cache, address) == whole
    assert len(files.asked) == count
    assert files.sent["a.bin"] == SIZE


@pytest.mark.parametrize("kind", ["plain", "sizeless", "both"])
def test_servers_that_know_no_ranges_or_sizes(files, cache, kind):
    for name in ("plain", "sizeless"):
        if kind in (name, "both"):
            getattr(files, name).add("a.bin")
    assert get(cache, files.address("a.bin")) == (files.folder / "a.bin").read_bytes()


def test_a_connection_that_is_cut_goes_on_where_it_ended(files, cache):
    files.cut["a.bin"] = 3
    assert get(cache, files.address("a.bin")) == (files.folder / "a.bin").read_bytes()
    assert files.cut["a.bin"] == 0
    # A block that was cut is asked for again, those before it are not.
    assert SIZE < files.sent["a.bin"] <= SIZE + 3 * 65_536


@pytest.mark.parametrize("kind", ["plain", "sizeless"])
def test_a_connection_that_is_cut_where_parts_cannot_be_had_begins_again(files, cache, kind):
    getattr(files, kind).add("a.bin")
    files.plain.add("a.bin")
    files.cut["a.bin"] = 2
    assert get(cache, files.address("a.bin")) == (files.folder / "a.bin").read_bytes()


def test_what_another_process_has_begun_is_gone_on_with(files, cache, monkeypatch):
    monkeypatch.setattr(cache_module, "_TRIES", 1)
    files.cut["a.bin"] = 2  # the second try brings nothing but half of a block
    address = files.address("a.bin")
    with pytest.raises(VideoError, match="cannot be downloaded: ") as caught:
        for _ in range(9):
            files.cut["a.bin"] = 1
            files.status["a.bin"] = (0, 0)
            monkeypatch.setattr(cache_module, "_BLOCK", 2 * SIZE)
            get(cache, address)
    assert caught.value.status == "download_error"
    assert not [path for path in cache.folder.iterdir() if not path.suffix]
    monkeypatch.setattr(cache_module, "_BLOCK", 65_536)
    files.cut.clear()
    assert get(cache, address) == (files.folder / "a.bin").read_bytes()


def test_a_file_that_has_changed_meanwhile_is_not_mixed(files, cache, monkeypatch):
    address, served = files.address("a.bin"), files.folder / "a.bin"
    found = access.look(address)[2]
    make_private(cache.folder)
    name = cache_module._name_of(address)
    (cache.folder / f"{name}.{found.version}.part").write_bytes(served.read_bytes()[:100_000])
    served.write_bytes(os.urandom(SIZE))
    os.utime(served, (5, 5))
    assert get(cache, address) == served.read_bytes()
    # And that of the same version is used.
    other = Cache(cache.folder.with_name("other"), cache.limit)
    make_private(other.folder)
    found = access.look(address)[2]
    files.sent.clear()
    (other.folder / f"{name}.{found.version}.part").write_bytes(served.read_bytes()[:100_000])
    assert get(other, address) == served.read_bytes()
    assert files.sent["a.bin"] == SIZE - 100_000


def test_a_file_that_changes_while_it_comes_is_brought_again(files, cache, monkeypatch):
    served, address = files.folder / "a.bin", files.address("a.bin")
    known, looks = access.look, []

    def look(address: str):  # noqa: ANN202
        looks.append(address)
        if len(looks) == 2:  # the look after the last byte
            served.write_bytes(os.urandom(SIZE))
            os.utime(served, (5, 5))
        return known(address)

    monkeypatch.setattr(cache_module, "look", look)
    assert get(cache, address) == served.read_bytes()
    assert len(looks) == 4


def test_what_is_kept_of_a_file_looks_as_old_as_it_was(files, cache):
    """By this the index of a video is known for all of its ranges."""
    times = []
    for _ in range(2):
        with cache.held(files.address("a.bin")) as file:
            times.append(file.stat().st_mtime_ns)
    assert times[0] == times[1]


def test_more_than_the_file_has_is_none_of_it(files, cache):
    address = files.address("a.bin")
    make_private(cache.folder)
    version = access.look(address)[2].version
    part = cache.folder / f"{cache_module._name_of(address)}.{version}.part"
    part.write_bytes(bytes(SIZE + 1))
    assert get(cache, address) == (files.folder / "a.bin").read_bytes()


@pytest.mark.parametrize(
    ("code", "times", "status", "words"),
    [
        (404, 99, "missing_file", "there is no such file at this address"),
        (410, 99, "missing_file", "there is no such file at this address"),
        (403, 99, "download_error", r"cannot be downloaded: .*403"),
        (503, 99, "download_error", r"cannot be downloaded: .*503"),
    ],
)
def test_what_servers_refuse(files, cache, code, times, status, words):
    files.status["a.bin"] = (code, times)
    with pytest.raises(VideoError, match=words) as caught:
        get(cache, files.address("a.bin"))
    assert caught.value.status == status
    # What is final is not asked for again and again.
    assert (len(files.asked) > 2) == (code == 503)


def test_a_server_that_is_busy_is_asked_again(files, cache):
    files.status["a.bin"] = (503, 5)
    assert get(cache, files.address("a.bin")) == (files.folder / "a.bin").read_bytes()


def test_no_server(cache):
    with pytest.raises(VideoError, match="cannot be downloaded: ") as caught:
        get(cache, "http://127.0.0.1:9/a.mp4")
    assert caught.value.status == "download_error"


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("ftp://x/a.mp4", "missing_file"),
        ("htps://x/a.mp4", "missing_file"),
        ("gs://b/a.mp4", "download_error"),
    ],
)
def test_an_address_that_nothing_reads_is_lost(cache, monkeypatch, address, status):
    """One that a package would read is, once that is installed."""
    monkeypatch.setattr(access, "find_spec", lambda _name: None)
    with pytest.raises(VideoError, match=r"(files are not read|need more packages)") as caught:
        get(cache, address)
    assert caught.value.status == status


def test_the_cache_is_bounded_and_keeps_what_is_read(files, cache):
    cache = Cache(cache.folder, 2 * SIZE + 10_000)
    for name in "bcd":
        (files.folder / f"{name}.bin").write_bytes(os.urandom(SIZE))
    addresses = [files.address(f"{name}.bin") for name in "abcd"]
    with cache.held(addresses[0]) as held:
        for address in addresses[1:]:
            get(cache, address)
            taken = sum(path.stat().st_size for path in cache.folder.iterdir())
            assert taken <= cache.limit
        assert held.stat().st_size == SIZE
    files.asked.clear()
    get(cache, addresses[0])
    get(cache, addresses[3])
    assert files.asked == []
    get(cache, addresses[1])
    assert files.asked
    # Nothing is left of what was removed, not even its lock.
    assert len(list(cache.folder.glob("*.lock"))) == 3


def test_a_file_larger_than_the_cache_is_refused(files, cache):
    small = Cache(cache.folder, SIZE - 1)
    with pytest.raises(VideoError, match=r"300,000 bytes, and --cache-size is 299,999") as caught:
        get(small, files.address("a.bin"))
    assert caught.value.status == "download_error"
    files.sizeless.add("a.bin")
    with pytest.raises(VideoError, match="more than the 299,999 bytes of --cache-size"):
        get(small, files.address("a.bin"))


def test_many_readers_of_few_files(files, tmp_path):
    """Files that together do not fit, read by several at a time: all are whole."""
    cache = Cache(tmp_path / "cache", 3 * SIZE + 10_000)
    whole = {}
    for number in range(6):
        whole[f"{number}.bin"] = os.urandom(SIZE)
        (files.folder / f"{number}.bin").write_bytes(whole[f"{number}.bin"])
    names = [f"{number % 6}.bin" for number in range(30)]
    with ThreadPoolExecutor(3) as workers:
        found = workers.map(lambda name: get(cache, files.address(name)) == whole[name], names)
        assert all(found)


def test_of_several_that_want_a_file_one_brings_it(files, cache):
    files.slow["a.bin"] = 0.01
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(partial(get, cache), [files.address("a.bin")] * 4))
    assert files.sent["a.bin"] == SIZE


def test_the_cache_of_a_run_goes_with_the_command(files, tmp_path, monkeypatch):
    monkeypatch.setenv("VIDCAP_CACHE", str(tmp_path / "base"))
    with caching(tmp_path / "run.vidcap") as cache:
        get(cache, files.address("a.bin"))
        assert cache == Cache.of(tmp_path / "run.vidcap", None)
        assert cache.folder.parent == tmp_path / "base"
        assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert not cache.folder.exists()


def test_a_folder_of_somebody_else_is_not_used(files, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    with pytest.raises(VideoError, match="another user's; set VIDCAP_CACHE"):
        get(Cache(tmp_path / "link", 1 << 20), files.address("a.bin"))


def test_what_is_to_be_installed_is_said(monkeypatch):
    assert unreadable("https://x/a.mp4") is None
    assert unreadable("s3://b/a.mp4") is None
    assert unreadable("hf://datasets/a/b.mp4") is None
    assert "ftp:// files are not read" in (unreadable("ftp://x/a.mp4") or "")
    monkeypatch.setattr(access, "find_spec", lambda _: None)
    for address, package in (
        ("https://x/a.mp4", "'fsspec[http]'"),
        ("s3://b/a.mp4", "s3fs"),
        ("hf://a/b/c.mp4", "fsspec"),
        ("gs://b/a.mp4", "gcsfs"),
    ):
        assert f"pip install {package}; or download them" in (unreadable(address) or "")


# In decoder processes, with videos.


def read_all(rows, cache, **more):
    read = Anywhere(partial(read_frames, reader="pyav"), cache)
    with DecodePool(Exactly([0]), workers=2, read=read, **{"timeout": 60.0, **more}) as pool:
        for row, (path, *span) in enumerate(rows):
            pool.submit(row, path, *span)
        found = {}
        while (decoded := pool.next()) is not None:
            found[decoded.row_id] = decoded
    return [found[row] for row in sorted(found)]


def test_videos_elsewhere_and_their_ranges(files, cache, clips):
    for name in ("h264", "text"):
        (files.folder / f"{name} ü.mp4").write_bytes(clips[name].read_bytes())
    video = files.address("h264%20%C3%BC.mp4")
    found = read_all(
        [(video,), (video, Span(1, 1.5)), (files.address("none.mp4"),), (str(clips["h264"]),),
         (files.address("text%20%C3%BC.mp4"),), (video.replace("://", ":/"),)], cache
    )  # fmt: skip
    assert [one.status for one in found] == [
        *("ok", "ok", "missing_file", "ok", "decode_error", "ok"),
    ]
    assert found[4].error == "text, not a video file"
    local = read_frames(clips["h264"], Exactly([0]))
    assert np.array_equal(found[0].clip.frames, local.frames)
    assert found[1].clip.indices.tolist() == [25]


def test_a_slow_download_is_no_slow_video(files, cache, clips):
    (files.folder / "v.mp4").write_bytes(clips["h264"].read_bytes())
    files.slow["v.mp4"] = 2.5 / ((files.folder / "v.mp4").stat().st_size // 8192)
    found = read_all([(files.address("v.mp4"),)], cache, timeout=1.5)
    assert (found[0].status, found[0].error) == ("ok", None)
    assert found[0].seconds < 1.5


def test_a_download_that_stands_still_costs_its_row(files, cache, clips, monkeypatch):
    monkeypatch.setattr(pool_module, "_DOWNLOAD_SECONDS", 2.0)
    (files.folder / "v.mp4").write_bytes(clips["h264"].read_bytes())
    (files.folder / "w.mp4").write_bytes(clips["h264"].read_bytes())
    files.slow["v.mp4"] = 20.0
    began = time.monotonic()
    found = read_all([(files.address("v.mp4"),), (files.address("w.mp4"),)], cache, timeout=1.0)
    assert [one.status for one in found] == ["download_error", "ok"]
    assert found[0].error == "its download has not got on for 2 seconds"
    assert time.monotonic() - began < 15


def test_a_table_elsewhere_and_where_its_paths_start_from(files, clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (files.folder / "d").mkdir()
    (files.folder / "d" / "v.mp4").write_bytes(clips["h264"].read_bytes())
    (files.folder / "d" / "a#b?c%20d.mp4").write_bytes(clips["h264"].read_bytes())
    (files.folder / "d" / "meta.csv").write_text(
        "path,start,end\nv.mp4,1,\n/abs.mp4,,\na#b?c%20d.mp4,1,\n"
    )
    address = files.address("d/meta.csv")
    meta = bring_table(address)
    assert meta == tmp_path / "meta.remote" / "meta.csv"
    run = RunDir(tmp_path / "run")
    plan = make_plan(meta, run, CaptionConfig("qwen2vl", "/m"))
    found = [locate(name, plan.bases) for name in pq.read_table(run.rows)["path"].to_pylist()]
    # Beside an address the name of a file is a name, whatever is in it.
    escaped = (files.address("d/a%23b%3Fc%2520d.mp4"), Span(1))
    assert found == [(files.address("d/v.mp4"), Span(1)), ("/abs.mp4", None), escaped]
    for one in read_all([found[0], found[2]], Cache(tmp_path / "c", 1 << 20)):
        assert one.clip.indices.tolist() == [25]
    # Once more it is brought as it is then; that of another address is not mixed with it.
    (files.folder / "d" / "meta.csv").write_text("path\nw.mp4\n")
    assert bring_table(address).read_text() == "path\nw.mp4\n"
    (files.folder / "meta.csv").write_text("path\nx.mp4\n")
    with pytest.raises(UsageError, match="is in the way of the table of"):
        bring_table(files.address("meta.csv"))
    with pytest.raises(UsageError, match="there is no such file at this address"):
        bring_table(files.address("none.csv"))


@pytest.fixture(scope="module")
def s3():
    """An S3-compatible server with one bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    names = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "mine",
             "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    names["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield client
    server.stop()
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


def test_videos_of_s3(s3, cache, clips):
    s3.put_object(Bucket="bucket", Key="a/v ü.mp4", Body=clips["h264"].read_bytes())
    found = read_all(
        [("s3://bucket/a/v ü.mp4",), ("s3://bucket/none.mp4",), ("s3://none/v.mp4",),
         ("s3:/bucket/a/v ü.mp4", Span(1))], cache
    )  # fmt: skip
    assert [(one.status, one.error) for one in found[:3]] == [
        ("ok", None),
        *([("missing_file", "there is no such file at this address")] * 2),
    ]
    assert found[3].clip.indices.tolist() == [25]
