"""Files behind addresses and sets on the hub: asked for again where that may help, else said."""

import http.server
import threading
from types import SimpleNamespace

import pytest
from datasets import config
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import constants

from sets_on_disk import encoded, write_tar
from tdd_cli.data import remote
from tdd_cli.data.remote import fetch
from tdd_cli.data.sources import count, open_source
from tdd_cli.errors import MissingComponent

WHOLE = bytes(range(256)) * 100


@pytest.fixture
def server(monkeypatch):
    """Answers as told: each answer is (status, bytes that come of WHOLE); the last again and again."""
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    told = SimpleNamespace(answers=[], asked=0)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, come = told.answers[min(told.asked, len(told.answers) - 1)]
            told.asked += 1
            self.send_response(status)
            self.send_header("Content-Length", str(len(WHOLE)))
            self.end_headers()
            self.wfile.write(WHOLE[:come])

        def log_message(self, *arguments):
            pass

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
    told.address = f"http://127.0.0.1:{serving.server_port}/a.tar"
    yield told
    serving.shutdown()
    serving.server_close()


ALL, CUT = (200, len(WHOLE)), (200, 5000)


@pytest.mark.parametrize("answers", [[ALL], [CUT, ALL], [(503, 0), CUT, ALL], [(429, 0), ALL]])
def test_what_fails_for_now_is_fetched_again(server, tmp_path, answers):
    server.answers = answers
    assert fetch(server.address, tmp_path, room=0).read_bytes() == WHOLE
    assert server.asked == len(answers)


@pytest.mark.parametrize(
    ("answer", "times", "message"),
    [(CUT, 3, "cut short: 5,000 of 25,600 bytes came"), ((500, 0), 3, "500"), ((404, 0), 1, "404")],
)
def test_what_does_not_come_is_said_and_nothing_of_it_kept(server, tmp_path, answer, times, message):
    server.answers = [answer]
    with pytest.raises(MissingComponent, match=rf"a\.tar cannot be fetched \(.*{message}"):
        fetch(server.address, tmp_path, room=0)
    assert server.asked == times
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]


def test_what_no_file_system_has_is_asked_for_once(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits"))
    for address in ("memory://nowhere/a.tar", "nonsense://a.tar"):
        with pytest.raises(MissingComponent, match="cannot be fetched"):
            fetch(address, tmp_path, room=0)


# --- the hub ---


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_that_does_not_answer_is_asked_no_more(tmp_path, monkeypatch, streaming):
    seen = []

    def load(name, **keywords):
        seen.append((config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE))
        raise ConnectionError("Couldn't reach it")

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("tdd_cli.families.hub.hub_answers", lambda: False)
    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setattr("datasets.load_dataset_builder", load)
    with pytest.raises(
        MissingComponent, match="'cats/dogs' is no folder or file here, nor in the hub's cache"
    ):
        open_source("cats/dogs", streaming=streaming)
    assert seen == [(True, True)]
    assert not config.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


def test_a_hub_without_the_set_is_told_from_one_that_is_away(monkeypatch):
    def load(name, **keywords):
        raise DatasetNotFoundError("Dataset 'cats/dogs' doesn't exist on the Hub or cannot be accessed.")

    monkeypatch.setattr("tdd_cli.families.hub.hub_answers", lambda: True)
    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(MissingComponent, match=r"file here, and the hub does not give it \(Dataset"):
        open_source("cats/dogs")


def test_files_that_are_here_are_no_matter_for_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tdd_cli.families.hub.hub_answers", lambda: pytest.fail("it is asked"))
    (tmp_path / "a").mkdir()
    write_tar(tmp_path / "a" / "b.tar", {"0.png": encoded(), "0.txt": b"words"})
    assert count(open_source("a/b.tar"), 0) == 1
