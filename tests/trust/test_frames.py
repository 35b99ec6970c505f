"""Video files that name other files, ask servers, are none or never end: nothing else is read, and nothing waits."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emorec.media.source import MediaError, Reader, Source, open_container, read_head
from emorec.media.video import VideoSettings, read_video
from emorec.media.video_track import read_track
from tests.media.clips import numbered, numbers_of, write_clip

SETTINGS = VideoSettings(frames=4, size=64)
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
ENDLESS_HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n"
CONCAT = "ffconcat version 1.0\nfile '{}'\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" mediaPresentationDuration="PT1S"><Period>'
    '<AdaptationSet><Representation id="1"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", numbered(8, 64, 64))


@pytest.fixture
def server() -> Iterator[tuple[int, list[str]]]:
    """The port of a server on this host, and who asked it."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            while True:
                try:
                    connection, address = listening.accept()
                except OSError:
                    return
                asked.append(str(address))
                connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield listening.getsockname()[1], asked
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def read(path: Path) -> list[int]:
    return numbers_of(read_video(Source(modality="video", path=path), SETTINGS))


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".mpd", ".sdp", ".ffconcat"])
@pytest.mark.parametrize("playlist", [HLS, ENDLESS_HLS, CONCAT, DASH, SDP])
def test_a_playlist_reads_no_other_file_and_asks_no_server(
    playlist: str, suffix: str, clip: Path, server: tuple[int, list[str]], tmp_path: Path
) -> None:
    port, asked = server
    for name in (f"http://127.0.0.1:{port}/a.mp4", f"tcp://127.0.0.1:{port}", str(clip), f"file:{clip}"):
        path = tmp_path / f"list{suffix}"
        path.write_text(playlist.format(name))
        with pytest.raises(MediaError, match="not decodable"):
            read(path)
    assert not asked


@pytest.mark.parametrize(
    "name", ["http:/127.0.0.1:{}/a.mp4", "file:/a.mp4", "concat:a|b.mp4", "subfile,,start,0,end,9,,:a.mp4"]
)
def test_a_name_with_a_colon_is_a_file(
    name: str, clip: Path, server: tuple[int, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, asked = server
    monkeypatch.chdir(tmp_path)
    path = Path(name.format(port))
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(clip, path)
    readers: tuple[Reader, ...] = ("av", "decord")
    for reader in readers:
        assert len(read_video(Source(modality="video", path=path), SETTINGS, reader=reader)) == 4
    assert not asked


def special_files(folder: Path) -> dict[str, Path]:
    os.mkfifo(folder / "pipe.mp4")
    (folder / "link.mp4").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket.mp4"))
    return {
        "a pipe": folder / "pipe.mp4",
        "a device": folder / "link.mp4",
        "a socket": folder / "socket.mp4",
        "a file that the kernel makes up": Path("/proc/self/maps"),
    }


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    for kind, path in special_files(tmp_path).items():
        source = Source(modality="video", path=path)
        for use in (
            lambda path=path: read_head(path),
            lambda source=source: read_video(source, SETTINGS),
            lambda source=source: source.key(lambda _: "0"),
            lambda path=path: read_track(path),
        ):
            with pytest.raises(OSError, match=f"expected a regular file, got {kind}"):
                use()


def test_a_file_that_grows_is_read_up_to_the_size_it_had(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.ts", numbered(8, 64, 64), "mpeg2video")
    content = path.read_bytes()
    with open_container(path, MediaError) as container:
        packets = 0
        for packet in container.demux(video=0):
            packets += bool(packet.size)
            assert packets < 100
            with path.open("ab") as stream:
                stream.write(content * 4)
    assert packets == 8


def test_a_picture_that_claims_to_be_huge_is_refused(clip: Path, tmp_path: Path) -> None:
    content = bytearray(write_clip(tmp_path / "a.avi", numbered(4, 64, 64), "ffv1").read_bytes())
    header = content.index(b"strf") + 8
    content[header + 4 : header + 12] = (9_000).to_bytes(4, "little") * 2
    (tmp_path / "a.avi").write_bytes(content)
    with pytest.raises(MediaError, match="at most 67108864 pixels, got 9000 x 9000"):
        read(tmp_path / "a.avi")
