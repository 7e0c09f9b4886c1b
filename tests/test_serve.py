"""edge-imdb serve: real clients get from it what Sentiment and FillMask give in the process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import edit_manifest, run_command
from serving import LONG, Server, serving

from edge_imdb import FillMask, Sentiment
from edge_imdb.runtime.bundle import EMBEDDED, GRAPHS

CLIENTS = Path(__file__).resolve().parents[1] / ".clients"
TEXTS = ["great film", "A dull plot, lifeless and clumsy.", "映画は naïve 🎬", "one <br /> two &amp; three\x00", LONG]
MASKED = "This is a great [MASK]!"
SEVERAL = "The [MASK] was good, but the [MASK] was dull."


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def sentiment() -> Sentiment:
    return Sentiment(threads=1)


@pytest.fixture(scope="module")
def fill_mask() -> FillMask:
    return FillMask(threads=1)


def same(found: Any, expected: Any) -> None:
    """The same labels and words in the same order, scores to 1e-6."""
    if isinstance(expected, list):
        assert isinstance(found, list) and len(found) == len(expected), found
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, dict):
        # The Python client's records have one more field, empty.
        assert {name for name in found if found[name] is not None} == expected.keys()
        for name in expected:
            same(found[name], expected[name])
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-6)
    else:
        assert found == expected


PYTHON_CLIENT = """
import dataclasses, json, sys
import huggingface_hub
from huggingface_hub import InferenceClient
url, request = sys.argv[1], json.load(sys.stdin)
root = InferenceClient(url)
sentiment = InferenceClient(url + "/models/sentiment")
fill = InferenceClient(url + "/models/fill-mask")
found = {"version": huggingface_hub.__version__}
found["root"] = [root.text_classification(text) for text in request["texts"]]
found["sentiment"] = [sentiment.text_classification(text, top_k=1) for text in request["texts"]]
found["logits"] = sentiment.text_classification(request["texts"][0], function_to_apply="none")
found["fill"] = fill.fill_mask(request["masked"], top_k=7)
found["targets"] = fill.fill_mask(request["masked"], targets=["film", "movie"])
found["several"] = fill.fill_mask(request["several"], top_k=2)
try:
    sentiment.text_classification("   ")
except Exception as error:
    found["error"] = str(error)
ends = [InferenceClient(provider="hf-inference", model=url + path) for path in ("", "/models/fill-mask")]
found["health"] = [client.health_check() for client in ends]
found["info"] = [client.get_endpoint_info()["model_id"] for client in ends]
print(json.dumps(found))
"""


@pytest.mark.parametrize("version", ["installed", "1.33.0", "2.4.0"])
def test_the_python_client_gets_what_sentiment_and_fill_mask_give(
    server: Server, sentiment: Sentiment, fill_mask: FillMask, version: str
) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}
    if version != "installed":
        folder = CLIENTS / f"huggingface_hub-{version}"
        if not folder.is_dir():
            pytest.skip(f"huggingface_hub {version} isn't there: make clients")
        environment["PYTHONPATH"] = str(folder)
    request = json.dumps({"texts": TEXTS, "masked": MASKED, "several": SEVERAL})
    done = subprocess.run(
        [sys.executable, "-c", PYTHON_CLIENT, server.url],
        input=request,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    if version != "installed":
        assert found["version"] == version
    same(found["root"], [sentiment(text, top_k=None) for text in TEXTS])
    same(found["sentiment"], [sentiment(text, top_k=1) for text in TEXTS])
    logits = sentiment.logits(TEXTS[0])
    expected = [{"label": label, "score": float(logits[i])} for i, label in enumerate(sentiment.labels)]
    same(found["logits"], sorted(expected, key=lambda entry: -entry["score"]))
    same(found["fill"], fill_mask(MASKED, top_k=7))
    same(found["targets"], fill_mask(MASKED, targets=["film", "movie"], top_k=2))
    same(found["several"], fill_mask(SEVERAL, top_k=2))
    assert "The text is blank: give a review with at least one visible character." in found["error"]
    assert (found["health"], found["info"]) == ([True] * 2, ["edge-imdb/sentiment", "edge-imdb/fill-mask"])


JS_CLIENT = """
const { InferenceClient } = require("@huggingface/inference");
const [url, request] = [process.argv[2], JSON.parse(process.argv[3])];
const client = new InferenceClient();
const at = (path) => client.endpoint(url + path);
(async () => {
  const found = {};
  found.root = await Promise.all(request.texts.map((inputs) => at("").textClassification({ inputs })));
  found.sentiment = await at("/models/sentiment").textClassification({
    inputs: request.texts[0], parameters: { top_k: 1 } });
  found.fill = await at("/models/fill-mask").fillMask({ inputs: request.masked, parameters: { top_k: 7 } });
  try { await at("").textClassification({ inputs: "  " }); } catch (error) { found.error = error.message; }
  console.log(JSON.stringify(found));
})();
"""


def test_the_javascript_client_gets_what_sentiment_and_fill_mask_give(
    server: Server, sentiment: Sentiment, fill_mask: FillMask, tmp_path: Path
) -> None:
    modules = CLIENTS / "js" / "node_modules"
    if shutil.which("node") is None or not modules.is_dir():
        pytest.skip("node or @huggingface/inference isn't there: make clients")
    script = tmp_path / "client.cjs"
    script.write_text(JS_CLIENT)
    texts = [text.replace("\0", "") for text in TEXTS]
    done = subprocess.run(
        ["node", str(script), server.url, json.dumps({"texts": texts, "masked": MASKED})],
        env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    same(found["root"], [sentiment(text, top_k=None) for text in texts])
    same(found["sentiment"], sentiment(texts[0], top_k=1))
    same(found["fill"], fill_mask(MASKED, top_k=7))
    assert "The text is blank: give a review with at least one visible character." in found["error"]


def test_lists_of_texts_are_answered_by_lists(server: Server, sentiment: Sentiment, fill_mask: FillMask) -> None:
    found = server.post("/", {"inputs": TEXTS})
    assert found.status == 200
    same(found.content, sentiment(TEXTS, top_k=None))
    same(server.post("/", {"inputs": TEXTS[:1]}).content, sentiment(TEXTS[:1], top_k=None))
    found = server.post("/models/fill-mask", {"inputs": [MASKED, SEVERAL], "parameters": {"top_k": 3}})
    same(found.content, fill_mask([MASKED, SEVERAL], top_k=3))
    same(server.post("/models/fill-mask", {"inputs": [MASKED]}).content, [fill_mask(MASKED)])


def test_sigmoid_is_the_logistic_function_of_the_logits(server: Server) -> None:
    import math

    def ask(function: str) -> dict[str, float]:
        found = server.post("/", {"inputs": TEXTS[0], "parameters": {"function_to_apply": function}}).content[0]
        return {entry["label"]: entry["score"] for entry in found}

    same(ask("sigmoid"), {label: 1 / (1 + math.exp(-logit)) for label, logit in ask("none").items()})


class TestTextEmbeddingsInference:
    """What its clients send to /predict."""

    def test_one_text_is_answered_flat_and_a_batch_nested(self, server: Server, sentiment: Sentiment) -> None:
        same(server.post("/predict", {"inputs": TEXTS[0]}).content, sentiment(TEXTS[0], top_k=None))
        same(server.post("/predict", {"inputs": [TEXTS[0]]}).content, sentiment(TEXTS[0], top_k=None))
        batch = [[text] for text in TEXTS]
        same(server.post("/predict", {"inputs": batch}).content, sentiment(TEXTS, top_k=None))

    def test_a_pair_is_refused_and_told_from_a_batch(self, server: Server) -> None:
        for pair in (["a", "b"], [["a", "b"]]):
            found = server.post("/predict", {"inputs": pair})
            assert (found.status, 'a batch is [["a"], ["b"]]' in found.content["error"]) == (422, True)

    def test_raw_scores_are_logits(self, server: Server, sentiment: Sentiment) -> None:
        found = server.post("/predict", {"inputs": TEXTS[0], "raw_scores": True}).content
        same(
            {entry["label"]: entry["score"] for entry in found},
            dict(zip(sentiment.labels, map(float, sentiment.logits(TEXTS[0])), strict=True)),
        )

    def test_truncate_false_refuses_what_the_model_does_not_read_whole(
        self, server: Server, sentiment: Sentiment
    ) -> None:
        found = server.post("/predict", {"inputs": LONG * 2, "truncate": False})
        assert found.status == 413
        most = sentiment.bundle.truncation.max_length
        assert f"the model reads at most {most}: set truncate to true" in found.content["error"]
        assert server.post("/predict", {"inputs": "great film", "truncate": False}).status == 200
        assert server.post("/predict", {"inputs": LONG * 2}).status == 200


def bundle_without_explain(folder: Path) -> Path:
    """The embedded sentiment bundle but for the graph that explains a label."""
    shutil.copytree(EMBEDDED / "sentiment", folder)
    edit_manifest(folder, graphs={"int8": GRAPHS["int8"]})
    return folder


class TestExplain:
    """/explain, and the page at /web/."""

    def test_it_answers_what_sentiment_explain_returns(self, server: Server, sentiment: Sentiment) -> None:
        same(server.post("/explain", {"inputs": TEXTS[1]}).content, sentiment.explain(TEXTS[1]))
        same(server.post("/explain", {"inputs": TEXTS[:2]}).content, [sentiment.explain(text) for text in TEXTS[:2]])
        found = server.post("/explain", {"inputs": "great film", "parameters": {"top_k": 1}})
        assert (found.status, found.headers["x-warning"]) == (200, 'Ignored parameters: "top_k"')

    def test_the_page_is_that_of_edge_imdb_web(self, server: Server) -> None:
        from edge_imdb.web.site import HEADERS, make_site

        site = make_site({"sentiment": EMBEDDED / "sentiment", "fill-mask": EMBEDDED / "fill-mask"})
        for name in site.files:
            connection = urllib.request.urlopen(f"{server.url}/web/{'' if name == 'index.html' else name}")
            with connection as found:
                assert found.read() == site.read(name), name
            assert {header: found.headers[header] for header in HEADERS} == HEADERS
        assert found.headers["content-type"] == "text/javascript; charset=utf-8", "the service worker is the last"
        assert server.get("/web").headers["location"] == "web/"
        for wrong in ("nowhere", "../app.py", "%2e%2e/app.py", "models/sentiment/../../index.html"):
            found = server.get(f"/web/{wrong}")
            assert (found.status, found.content["error"]) == (404, "There is no such file: the page is at /web/.")

    def test_a_bundle_without_its_graph_is_told_in_a_sentence(self, tmp_path: Path) -> None:
        without = bundle_without_explain(tmp_path / "bundle")
        with serving("--task", "sentiment", "--sentiment-model", without) as lacking:
            found = lacking.post("/explain", {"inputs": "great film"})
            assert (found.status, "has no graph that explains a label" in found.content["error"]) == (422, True)
            found = lacking.get("/web/")
            assert (found.status, "There is no page for these bundles" in found.content["error"]) == (404, True)
            assert lacking.post("/", {"inputs": "great film"}).status == 200


def test_models_in_the_working_directory_are_served_as_every_command_uses_them(tmp_path: Path) -> None:
    bundle_without_explain(tmp_path / "models" / "sentiment")
    with serving("--task", "sentiment", cwd=tmp_path) as server:
        assert server.post("/explain", {"inputs": "great film"}).status == 422


def test_info_names_model_labels_and_limits(server: Server, sentiment: Sentiment) -> None:
    found = server.get("/info").content
    assert found["model_type"] == {
        "classifier": {"id2label": {"0": "neg", "1": "pos"}, "label2id": {"neg": 0, "pos": 1}}
    }
    assert (found["max_input_length"], found["max_client_batch_size"]) == (sentiment.bundle.truncation.max_length, 32)
    assert server.get("/models/fill-mask/info").content["model_type"] == {"fill-mask": {}}


def test_metrics_count_requests_and_texts(server: Server) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    requests = 'edge_imdb_requests_total{path="/predict",status="200"}'
    texts = 'edge_imdb_text_seconds_count{task="sentiment"}'
    before = server.metric(requests), server.metric(texts)
    server.post("/predict", {"inputs": [["a"], ["b"], ["c"]]})
    assert (server.metric(requests), server.metric(texts)) == (before[0] + 1, before[1] + 3)
    names = {family.name for family in text_string_to_metric_families(server.get("/metrics").content)}
    assert {"edge_imdb_queue_texts", "edge_imdb_ready", "process_resident_memory_bytes"} <= names


def test_docs_and_the_openapi_document_name_every_path(server: Server) -> None:
    paths = server.get("/api-doc/openapi.json").content["paths"]
    page = server.get("/docs")
    assert page.status == 200
    ours = ("/", "/explain", "/models/sentiment", "/models/fill-mask", "/web/")
    for path in (*ours, "/predict", "/health", "/info", "/metrics"):
        assert path in paths and f" {path}</code>" in page.content
    assert server.get("/", headers={"Accept": "text/html,*/*"}).headers["location"] == "docs"


def test_wrong_paths_and_methods_are_told_in_a_sentence(server: Server) -> None:
    found = server.get("/nowhere")
    assert (found.status, found.content["error"]) == (404, "There is nothing at this path: see /docs.")
    found = server.get("/predict")
    assert (found.status, found.headers["allow"]) == (405, "POST")


def test_a_blank_text_among_several_is_named(server: Server) -> None:
    found = server.post("/", {"inputs": ["great film", " \n"]})
    assert (found.status, found.content["error"][:32]) == (422, "Text 2 of 2: The text is blank: ")


def test_a_connection_is_kept_for_the_next_request(server: Server) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for path in ("/", "/nowhere", "/predict", "/"):
        connection.request("POST", path, b'{"inputs": "great film"}')
        response = connection.getresponse()
        response.read()
        first = connection.sock
        assert response.status in (200, 404)
        assert first is not None and connection.sock is first
        # Longer than some, shorter than uvicorn's five seconds, is no test: the option is.
    connection.close()


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    def request(text: str) -> bytes:
        body = json.dumps({"inputs": text}).encode()
        return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    received = server.raw(b"".join(request(text) for text in ("great film", "awful film", "great film", " ")))
    labels = [line[12:15] for line in received.decode().split("\r\n") if line.startswith("[[")]
    assert labels == ["pos", "neg", "pos"]
    assert received.count(b"HTTP/1.1 200") == 3 and received.count(b"HTTP/1.1 422") == 1


def test_the_log_is_json_without_texts_queries_or_keys() -> None:
    secret = "Xylophonesecret"
    with serving(environment={"EDGE_IMDB_API_KEY": secret}) as server:
        headers = {"Authorization": f"Bearer {secret}"}
        for path, body in (
            ("/", {"inputs": f"{secret} film"}),
            ("/models/fill-mask", {"inputs": f"{secret} without a mask"}),
            ("/models/fill-mask", {"inputs": "a [MASK]", "parameters": {"targets": [f"{secret} two"]}}),
            (f"/{secret}?q={secret}", {"inputs": secret}),
            ("/predict", f"{secret} no json".encode()),
        ):
            server.post(path, body, headers=headers)
        server.raw(f"{secret}\r\n\r\n".encode())
        assert server.stop() == 0
        text = json.dumps(server.log)
    assert secret not in text
    events = [line["event"] for line in server.log]
    assert "no JSON" not in events
    assert events.count("request") == 5
    assert [line["status"] for line in server.log if line["event"] == "request"] == [200, 422, 200, 404, 400]


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    with serving("--api-key", "naïve key", "--task", "sentiment", "--cors-origin", "https://example.org") as running:
        yield running


class TestKey:
    """--api-key, and --cors-origin beside it."""

    def test_requests_without_the_key_are_refused(self, guarded: Server) -> None:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "naïve key"}):
            encoded = {name: value.encode() for name, value in headers.items()}
            found = guarded.post("/", {"inputs": "great film"}, headers=encoded)
            assert found.status == 401 and found.headers["www-authenticate"] == "Bearer"
            assert "send Authorization: Bearer KEY" in found.content["error"]
        good = {"Authorization": "Bearer naïve key".encode()}
        assert guarded.post("/", {"inputs": "great film"}, headers=good).status == 200

    def test_health_is_open_and_metrics_are_not(self, guarded: Server) -> None:
        assert guarded.get("/health").status == 200
        assert guarded.get("/metrics").status == 401
        assert guarded.get("/info").status == 401

    def test_pages_of_the_named_origin_may_call_and_read_refusals(self, guarded: Server) -> None:
        asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
        found = guarded.request("OPTIONS", "/", headers={**asked, "Access-Control-Request-Headers": "authorization"})
        assert found.status == 200 and found.headers["access-control-allow-origin"] == "https://example.org"
        found = guarded.post("/", {"inputs": "x"}, headers={"Origin": "https://example.org"})
        assert found.status == 401 and found.headers["access-control-allow-origin"] == "https://example.org"
        found = guarded.post("/", {"inputs": "x"}, headers={"Origin": "https://example.com"})
        assert "access-control-allow-origin" not in found.headers

    def test_the_other_task_is_not_there(self, guarded: Server) -> None:
        good = {"Authorization": "Bearer naïve key".encode()}
        assert guarded.post("/models/fill-mask", {"inputs": MASKED}, headers=good).status == 404


def test_without_cors_no_page_may_read_answers(server: Server) -> None:
    found = server.post("/", {"inputs": "great film"}, headers={"Origin": "https://example.org"})
    assert not any(name.startswith("access-control") for name in found.headers)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 can be reached from other machines: give --api-key, or --insecure"),
        (["--host", "no.such.host.invalid"], "'no.such.host.invalid' is not an address of this machine"),
        (["--api-key", " "], "--api-key is empty"),
        (["--max-wait", "nan"], "--max-wait is nan: it must be 0.01 or more."),
        (["--max-texts", "0"], "--max-texts is 0: it must be 1 or more."),
        (["--max-connections", "100000000"], "this process may open"),
    ],
)
def test_wrong_options_are_told_in_a_sentence(arguments: list[str], sentence: str) -> None:
    done = run_command("serve", "--port", "0", *arguments)
    assert (done.returncode, sentence in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


def test_a_port_in_use_and_a_missing_bundle_are_told_in_a_sentence(server: Server, tmp_path: Path) -> None:
    done = run_command("serve", "--port", server.port)
    assert (done.returncode, f"port {server.port} can't be used" in done.stderr) == (2, True)
    done = run_command("serve", "--port", 0, "--sentiment-model", tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert done.stderr.splitlines()[-1].startswith("Error: "), done.stderr


def test_before_it_is_ready_it_says_503_and_metrics_count_from_there() -> None:
    server = Server()
    try:
        seen = []
        while "ready" not in [line["event"] for line in server.log]:
            seen.append((server.get("/health").status, server.post("/", {"inputs": "great film"}).status))
            time.sleep(0.01)
        assert server.get("/health").status == 200
        assert server.metric("edge_imdb_ready") == 1
        # The first, sent as soon as it listened, came before the models were open.
        assert seen[0] == (503, 503)
        assert server.metric('edge_imdb_requests_total{path="/",status="503"}') >= 1
    finally:
        server.stop()


def test_ctrl_c_ends_an_idle_server_with_130() -> None:
    with serving("--task", "sentiment") as server:
        start = time.monotonic()
        assert server.stop(signal.SIGINT) == 130
        assert time.monotonic() - start < 2


def test_without_the_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('no uvicorn', name='uvicorn')\n")
    done = run_command("serve", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "This needs uvicorn, which is not installed: pip install 'edge-imdb[serve]'" in done.stderr
