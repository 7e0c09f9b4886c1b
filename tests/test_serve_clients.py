"""edge-imdb serve beside text-embeddings-inference (TEI), for its clients, for proxies, for probes and for browsers.

The server's application runs in this process: the answers are the same as over a socket, and no start is needed. What
happens below the application (HTTP/1.0, chunks, Expect) is tested over one real socket at the end of the file.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from peer_schemas import HUGGING_FACE, TEI
from serving import LONG, InProcess, Server, serving

from edge_imdb import FillMask, Sentiment
from edge_imdb.errors import UsageError
from edge_imdb.serve.access import Key, checked_key, checked_origin
from edge_imdb.serve.encoding import accepted, decode_body
from edge_imdb.serve.errors import RequestError
from edge_imdb.serve.limits import Limits
from edge_imdb.serve.proxy import Trusted, checked_root_path

MASKED = "This is a great [MASK]!"


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {"sentiment": Sentiment(threads=1), "fill-mask": FillMask(threads=1)}


@pytest.fixture(scope="module")
def app(models: dict[str, Any]) -> Iterator[InProcess]:
    server = InProcess(models)
    yield server
    server.close()


@pytest.fixture
def make(models: dict[str, Any]) -> Iterator[Callable[..., InProcess]]:
    """Builds servers with options of their own."""
    made: list[InProcess] = []

    def build(**options: Any) -> InProcess:
        made.append(InProcess(models, **options))
        return made[-1]

    yield build
    for server in made:
        server.close()


def is_valid(schema: dict[str, Any], content: Any) -> None:
    jsonschema_rs.validate(schema, content)


class TestSchemas:
    """Every answer is what the peers' published schemas say."""

    @pytest.mark.parametrize(
        ("path", "body", "name"),
        [
            ("/predict", {"inputs": "great film"}, "PredictResponse"),
            ("/predict", {"inputs": ["great film"]}, "PredictResponse"),
            ("/predict", {"inputs": [["great film"], ["dull"]], "raw_scores": True}, "PredictResponse"),
            ("/invocations", {"inputs": "great film"}, "PredictResponse"),
            ("/tokenize", {"inputs": "great film"}, "TokenizeResponse"),
            ("/tokenize", {"inputs": ["great", "film"], "add_special_tokens": False}, "TokenizeResponse"),
            ("/decode", {"ids": [101, 2307, 102]}, "DecodeResponse"),
            ("/decode", {"ids": [[101, 2307], [2143]], "skip_special_tokens": False}, "DecodeResponse"),
        ],
    )
    def test_answers_are_those_of_tei(self, app: InProcess, path: str, body: Any, name: str) -> None:
        found = app.post(path, body)
        assert found.status == 200, found
        is_valid(TEI[name], found.content)

    def test_info_is_that_of_tei(self, app: InProcess) -> None:
        for path in ("/info", "/models/sentiment/info"):
            found = app.get(path).content
            is_valid(TEI["Info"], found)
            assert found["served_model_name"] == found["model_id"] == "edge-imdb/sentiment"
        # TEI has no word for fill-mask: all but the type of the model is as it has it.
        fill = app.get("/models/fill-mask/info").content
        is_valid(TEI["Info"], {**fill, "model_type": found["model_type"]})

    @pytest.mark.parametrize(
        ("path", "body", "status", "kind"),
        [
            ("/predict", {"inputs": ""}, 422, "Empty"),
            ("/predict", {"inputs": [["a"], [" "]]}, 422, "Empty"),
            ("/predict", {"inputs": []}, 400, "Empty"),
            ("/", {"inputs": []}, 400, "Empty"),
            ("/tokenize", {"inputs": []}, 400, "Empty"),
            ("/tokenize", {"inputs": ""}, 400, "Empty"),
            ("/decode", {"ids": []}, 400, "Empty"),
            ("/decode", {"ids": [[]]}, 400, "Empty"),
            ("/decode", {"ids": [99_999]}, 422, "Tokenizer"),
            ("/tokenize", b'{"inputs": "\\ud800"}', 422, "Tokenizer"),
            ("/predict", {"inputs": ["a", "b", "c"]}, 422, "Validation"),
            ("/predict", {"inputs": [["a"]] * 33}, 413, "Validation"),
            ("/predict", {"inputs": LONG * 2, "truncate": False}, 413, "Validation"),
            ("/predict", b"{", 400, "Validation"),
            ("/models/fill-mask", {"inputs": "no mask"}, 422, "Validation"),
            ("/nowhere", {"inputs": "a"}, 404, "Validation"),
            ("/embed", {"inputs": "a"}, 424, "Backend"),
            ("/rerank", {"query": "a", "texts": ["b"]}, 424, "Backend"),
            ("/v1/embeddings", {"input": "a", "model": "m"}, 424, "Backend"),
            ("/v1/chat/completions", {"messages": [], "model": "m"}, 424, "Backend"),
        ],
    )
    def test_errors_are_those_of_tei(self, app: InProcess, path: str, body: Any, status: int, kind: str) -> None:
        found = app.post(path, body)
        assert (found.status, found.content["error_type"]) == (status, kind), found
        is_valid(TEI["ErrorResponse"], found.content)
        assert found.content["error"][0].isupper() or found.content["error"].split()[0] in ("inputs", "ids")
        if path.startswith("/v1/"):
            is_valid(TEI["OpenAICompatErrorResponse"], found.content)

    def test_loading_draining_and_overload_have_the_types_of_tei(self, make: Callable[..., InProcess]) -> None:
        app = make()
        work, app.state.work = app.state.work, None
        for found in (app.get("/health"), app.post("/predict", {"inputs": "a"}), app.get("/info"), app.get("/ping")):
            assert (found.status, found.content["error_type"], found.headers["retry-after"]) == (503, "Unhealthy", "1")
            is_valid(TEI["ErrorResponse"], found.content)
        app.state.work = work
        app.state.buffered = 32 * app.state.limits.max_body
        found = app.post("/predict", {"inputs": "a"})
        assert (found.status, found.content["error_type"]) == (429, "Overloaded")

    def test_a_failure_of_the_model_is_backend(self, models: dict[str, Any], make: Callable[..., InProcess]) -> None:
        class Broken:
            bundle = models["sentiment"].bundle

            def __call__(self, *arguments: Any, **options: Any) -> Any:
                raise ValueError("a reason that quotes a text")

        app = make()
        app.state.models["sentiment"] = Broken()
        found = app.post("/", {"inputs": "a"})
        assert (found.status, found.content["error_type"]) == (500, "Backend")
        assert "quotes" not in json.dumps([found.content, *app.log])
        assert [line["error"] for line in app.log if line["event"] == "failure"] == ["ValueError"]

    @pytest.mark.parametrize(
        "parameters",
        [
            None,
            {},
            {"top_k": 2},
            {"top_k": 1.0},
            {"top_k": 2e0, "function_to_apply": "sigmoid"},
            {"function_to_apply": "none"},
            {"function_to_apply": "SOFTMAX"},
            {"return_all_scores": True, "truncation": "only_first"},
        ],
    )
    def test_requests_of_the_text_classification_task(self, app: InProcess, parameters: Any) -> None:
        body = {"inputs": "great film", **({} if parameters is None else {"parameters": parameters})}
        count = int((parameters or {}).get("top_k", 2))
        # The clients of Hugging Face take the first of a list; TEI's and SageMaker's take the list itself.
        nested, flat = app.post("/models/sentiment", body), app.post("/invocations", body)
        assert (nested.status, flat.status) == (200, 200)
        assert (len(nested.content), len(nested.content[0])) == (1, count)
        is_valid(HUGGING_FACE["text-classification output"], nested.content[0])
        assert flat.content == nested.content[0]

    @pytest.mark.parametrize(
        ("parameters", "count"),
        [
            (None, 5),
            ({"top_k": 3.0}, 3),
            ({"targets": []}, 5),
            ({"targets": [], "top_k": 2}, 2),
            ({"targets": ["film", "movie"]}, 2),
            ({"targets": ["film", "movie"], "top_k": 1.0}, 1),
            ({"targets": ["unwatchable", "great"]}, 2),
            ({"top_k": None, "targets": None}, 5),
            ({"tokenizer_kwargs": {"truncation": True}}, 5),
        ],
    )
    def test_requests_of_the_fill_mask_task(self, app: InProcess, parameters: Any, count: int) -> None:
        body = {"inputs": MASKED, **({} if parameters is None else {"parameters": parameters})}
        found = app.post("/models/fill-mask", body)
        assert (found.status, len(found.content)) == (200, count)
        is_valid(HUGGING_FACE["fill-mask output"], found.content)

    def test_a_target_of_several_pieces_is_named_in_a_header(self, app: InProcess) -> None:
        body = {"inputs": MASKED, "parameters": {"targets": ["unwatchable", "gr\u00f6\u00dflich", "great"], "seed": 1}}
        with warnings.catch_warnings():
            # The words of clients don't belong in the server's log.
            warnings.simplefilter("error")
            found = app.post("/models/fill-mask", body)
        assert found.status == 200 and "great" in [fill["token_str"] for fill in found.content]
        ignored, targets = found.headers["x-warning"].split("; ")
        assert ignored == 'Ignored parameters: "seed"'
        assert "'unwatchable' is not in the vocabulary: using its first word piece, 'un'." in targets
        assert "'gr\\xf6\\xdflich'" in targets

    def test_a_target_of_several_pieces_stands_for_its_first_and_the_header_says_so(self, app: InProcess) -> None:
        found = app.post("/models/fill-mask", {"inputs": MASKED, "parameters": {"targets": ["unwatchable", "film"]}})
        assert (found.status, [entry["token_str"] for entry in found.content]) == (200, ["film", "un"])
        is_valid(HUGGING_FACE["fill-mask output"], found.content)
        assert "'unwatchable' is not in the vocabulary: using its first word piece, 'un'" in found.headers["x-warning"]
        found = app.post("/models/fill-mask", {"inputs": MASKED, "parameters": {"targets": [""], "a": 1}})
        assert (found.status, "targets" in found.content["error"]) == (422, True)
        targets = ["größe zwei", "a\r\nb"]
        found = app.post("/models/fill-mask", {"inputs": MASKED, "parameters": {"targets": targets, "a": 1}})
        assert found.status == 200 and found.headers["x-warning"].startswith('Ignored parameters: "a"; The target ')
        assert found.headers["x-warning"].isascii() and "\n" not in found.headers["x-warning"]

    def test_ignored_parameters_are_named_in_a_header(self, app: InProcess) -> None:
        found = app.post("/", {"inputs": "a", "parameters": {"seed": 1, "top_k": 1, "größe\r\nx: y": 2, "null": None}})
        assert found.status == 200
        assert found.headers["x-warning"] == 'Ignored parameters: "seed", "gr\\u00f6\\u00dfe\\r\\nx: y"'
        found = app.post("/models/fill-mask", {"inputs": MASKED, "parameters": dict.fromkeys("abcde", 1)})
        assert found.headers["x-warning"] == 'Ignored parameters: "a", "b", "c" and 2 more'
        assert "x-warning" not in app.post("/", {"inputs": "a"}).headers


class TestTruncation:
    """``truncate`` and ``truncation_direction`` of /predict."""

    HEAD, TAIL = "A great film, wonderful and moving. " * 100, "A dull plot, lifeless and clumsy. " * 100

    def scores(self, app: InProcess, text: str, **fields: Any) -> dict[str, float]:
        found = app.post("/predict", {"inputs": text, **fields})
        assert found.status == 200, found
        return {entry["label"]: entry["score"] for entry in found.content}

    def test_left_reads_the_end_and_right_the_beginning(self, app: InProcess, models: dict[str, Any]) -> None:
        text = self.HEAD + self.TAIL
        for word in ("Right", "right"):
            assert self.scores(app, text, truncation_direction=word)["pos"] > 0.9
        for word in ("Left", "left"):
            assert self.scores(app, text, truncation_direction=word)["neg"] > 0.9
        # The tokens that are left, given as a text of their own, have the same logits.
        model, most = models["sentiment"], models["sentiment"].bundle.truncation.max_length
        ids = model._tokens(text)[: most - 2]
        whole = model.logits(model._model.tokenizer.decode(ids))
        raw = self.scores(app, text, truncation_direction="Right", raw_scores=True)
        assert [raw[label] for label in model.labels] == pytest.approx([float(value) for value in whole], abs=1e-5)

    def test_the_direction_changes_nothing_for_a_text_that_fits(self, app: InProcess) -> None:
        plain = self.scores(app, "great film")
        assert plain == self.scores(app, "great film", truncation_direction="Left")
        assert plain == self.scores(app, "great film", truncation_direction="Right", truncate=False)

    def test_without_a_direction_the_text_is_cut_as_everywhere(self, app: InProcess, models: dict[str, Any]) -> None:
        text = self.HEAD + self.TAIL
        expected = {entry["label"]: entry["score"] for entry in models["sentiment"](text, top_k=None)}
        assert self.scores(app, text) == self.scores(app, text, truncation_direction=None) == expected

    def test_truncate_false_refuses_in_either_direction(self, app: InProcess) -> None:
        for direction in ("Left", "Right", None):
            found = app.post("/predict", {"inputs": LONG * 2, "truncate": False, "truncation_direction": direction})
            assert (found.status, "set truncate to true" in found.content["error"]) == (413, True)


class TestTokenizer:
    """/tokenize and /decode."""

    def test_tokens_have_the_offsets_of_bytes_as_in_tei(self, app: InProcess) -> None:
        text = "Très 映画 film"
        tokens = app.post("/tokenize", {"inputs": text}).content[0]
        assert [token["special"] for token in tokens[:2]] == [True, False]
        assert tokens[0] == {"id": 101, "text": "[CLS]", "special": True, "start": None, "stop": None}
        inner = [token for token in tokens if not token["special"]]
        for token in inner:
            assert text.encode()[token["start"] : token["stop"]].decode() == token["text"]
        assert "".join(token["text"] for token in inner) == text.replace(" ", "")

    def test_without_special_tokens_and_for_several_texts(self, app: InProcess, models: dict[str, Any]) -> None:
        texts = ["great film", "a [MASK]"]
        found = app.post("/tokenize", {"inputs": texts, "add_special_tokens": False}).content
        tokenizer = models["fill-mask"]._model.tokenizer
        expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        assert [[token["id"] for token in tokens] for tokens in found] == expected

    def test_decode_is_the_inverse_and_skips_special_tokens(self, app: InProcess) -> None:
        ids = [token["id"] for token in app.post("/tokenize", {"inputs": "great film"}).content[0]]
        assert app.post("/decode", {"ids": ids}).content == ["great film"]
        assert app.post("/decode", {"ids": [ids, ids[1:2]]}).content == ["great film", "great"]
        assert app.post("/decode", {"ids": ids, "skip_special_tokens": False}).content == ["[CLS] great film [SEP]"]

    def test_a_server_of_fill_mask_alone_has_them_too(self, models: dict[str, Any]) -> None:
        app = InProcess({"fill-mask": models["fill-mask"]})
        try:
            assert app.post("/decode", {"ids": [2307]}).content == ["great"]
            assert app.post("/invocations", {"inputs": MASKED}).content == app.post("/", {"inputs": MASKED}).content
        finally:
            app.close()


class TestProbes:
    """Health checks of TEI, SageMaker, Kubernetes and load balancers, and people with a browser."""

    @pytest.mark.parametrize("path", ["/", "/health", "/ping", "/models/sentiment/health", "/health/", "//health"])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_they_are_answered_without_a_key(self, make: Callable[..., InProcess], path: str, method: str) -> None:
        app = make(key="secret")
        assert app.request(method, path).status == 200
        app.state.stopping = True
        assert app.request(method, path).status == 503

    def test_posts_to_the_same_path_need_the_key(self, make: Callable[..., InProcess]) -> None:
        app = make(key="secret")
        assert app.post("/", {"inputs": "a"}).status == 401
        assert app.request("OPTIONS", "/").status == 401
        assert app.post("/", {"inputs": "a"}, headers={"Authorization": "Bearer secret"}).status == 200

    def test_a_browser_gets_to_the_page_about_the_server(self, app: InProcess) -> None:
        accept = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        found = app.get("/", headers=accept)
        assert (found.status, found.headers["location"]) == (307, "docs")
        assert app.get("/", headers={"Accept": "*/*"}).content == {"status": "ok"}

    @pytest.mark.parametrize("path", ["/predict/", "//predict", "/models//sentiment/", "/models/sentiment"])
    def test_slashes_too_many_change_nothing(self, app: InProcess, path: str) -> None:
        assert app.post(path, {"inputs": "great film"}).status == 200
        assert app.log[-1]["path"] in ("/predict", "/models/sentiment")

    def test_options_and_unknown_methods_name_what_is_allowed(self, app: InProcess) -> None:
        found = app.request("OPTIONS", "/predict")
        assert (found.status, found.headers["allow"]) == (405, "POST")
        assert app.request("OPTIONS", "*").headers["allow"] == "GET, HEAD, POST, OPTIONS"
        assert app.request("DELETE", "/health").status == 405


class TestBodies:
    """What clients do to a body on its way."""

    BODY = json.dumps({"inputs": "great film"}).encode()

    def encoded(self) -> dict[str, bytes]:
        raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        found = {
            "gzip": gzip.compress(self.BODY),
            "X-GZIP": gzip.compress(self.BODY[:5]) + gzip.compress(self.BODY[5:]) + b"\0" * 3,
            "deflate": zlib.compress(self.BODY),
            "Deflate": raw.compress(self.BODY) + raw.flush(),
            "identity": self.BODY,
            "": self.BODY,
            "identity, gzip": gzip.compress(self.BODY),
        }
        if "zstd" in accepted():
            import zstandard

            found["zstd"] = zstandard.ZstdCompressor().compress(self.BODY)
        return found

    def test_content_encodings_are_undone(self, app: InProcess) -> None:
        plain = app.post("/predict", self.BODY).content
        for name, body in self.encoded().items():
            found = app.post("/predict", body, headers={"Content-Encoding": name})
            assert (found.status, found.content) == (200, plain), name

    @pytest.mark.parametrize("name", ["br", "compress", "gzip, gzip", "great"])
    def test_an_encoding_that_is_not_known_is_415_with_those_that_are(self, app: InProcess, name: str) -> None:
        found = app.post("/predict", self.BODY, headers={"Content-Encoding": name})
        assert (found.status, found.headers["accept-encoding"]) == (415, accepted())
        is_valid(TEI["ErrorResponse"], found.content)

    @pytest.mark.parametrize("name", ["gzip", "deflate"])
    def test_a_body_that_is_not_encoded_so_or_cut_short_is_400(self, app: InProcess, name: str) -> None:
        whole = self.encoded()[name]
        for body in (self.BODY, whole[:-9], b"", whole[:3], gzip.compress(b"") * 200 + whole):
            found = app.post("/predict", body, headers={"Content-Encoding": name})
            assert (found.status, "can't be decoded as" in found.content["error"]) == (400, True), body[:20]

    def test_a_decompression_bomb_is_refused_at_the_limit_of_a_body(self, make: Callable[..., InProcess]) -> None:
        import tracemalloc

        app = make(limits=Limits(max_body=100_000))
        bombs = {"gzip": gzip.compress(b" " * 50_000_000), "deflate": zlib.compress(b" " * 50_000_000)}
        if "zstd" in accepted():
            import zstandard

            bombs["zstd"] = zstandard.ZstdCompressor().compress(b" " * 50_000_000)
        tracemalloc.start()
        try:
            for name, bomb in bombs.items():
                assert len(bomb) < 100_000
                found = app.post("/predict", bomb, headers={"Content-Encoding": name})
                assert (found.status, "larger than 100000 bytes" in found.content["error"]) == (413, True)
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
        finally:
            tracemalloc.stop()
        with pytest.raises(RequestError):
            decode_body(b"\x00", "gzip", 10)

    def test_a_byte_order_mark_and_a_charset_are_no_obstacle(self, app: InProcess) -> None:
        text = {"inputs": "Très bon film"}
        plain = app.post("/predict", text).content
        utf8 = json.dumps(text, ensure_ascii=False).encode()
        for body, kind in (
            (b"\xef\xbb\xbf" + utf8, "application/json"),
            (utf8, "application/json; charset=utf-8"),
            (utf8, 'application/json;charset="UTF-8"'),
            (utf8, "text/plain"),
            (utf8, "application/x-www-form-urlencoded"),
            (utf8, "application/json; charset=ISO-8859-1"),
            (utf8.decode().encode("latin-1"), "application/json; charset=ISO-8859-1"),
            (utf8.decode().encode("utf-16"), "application/json; charset=utf-16"),
        ):
            found = app.post("/predict", body, headers={"Content-Type": kind})
            assert (found.status, found.content) == (200, plain), kind
        found = app.post("/predict", utf8.decode().encode("latin-1"), headers={"Content-Type": "application/json"})
        assert (found.status, "not UTF-8" in found.content["error"]) == (400, True)


class TestKey:
    """--api-key, and the header that carries it."""

    @pytest.mark.parametrize("given", ["secret\n", " secret\r\n", "secret"])
    def test_white_space_around_a_secret_is_no_part_of_it(self, given: str) -> None:
        assert checked_key(given) == "secret"

    @pytest.mark.parametrize("given", ["", " ", "\n", "two\nlines", "a\tb", "a\x00b", "a\x7f"])
    def test_a_key_that_no_client_could_send_is_refused(self, given: str) -> None:
        with pytest.raises(UsageError, match="--api-key"):
            checked_key(given)

    def test_the_scheme_may_have_any_case_and_spaces(self) -> None:
        key = Key("sécret key")
        for scheme in (b"Bearer ", b"bearer ", b"BEARER   ", b"  Bearer "):
            assert key.accepts(scheme + "sécret key".encode()) and key.accepts(scheme + "sécret key".encode("latin-1"))
        for wrong in (b"", b"Bearer", b"Bearer ", b"Basic s\xe9cret key", "sécret key".encode(), b"Bearer secret key"):
            assert not key.accepts(wrong)
        # A key that Latin-1 can't encode isn't any text that looks like it.
        assert not Key("ключ").accepts(b"Bearer ????")

    def test_an_empty_variable_does_not_open_the_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from click.testing import CliRunner

        from edge_imdb.cli.serve import serve

        for value in ("", "\n", " "):
            monkeypatch.setenv("EDGE_IMDB_API_KEY", value)
            # click keeps a command's help option, with the names of the first context.
            done = CliRunner().invoke(serve, ["--port", "0"], help_option_names=["-h", "--help"])
            assert isinstance(done.exception, UsageError) and "EDGE_IMDB_API_KEY" in str(done.exception)


class TestOrigins:
    """--cors-origin."""

    @pytest.mark.parametrize(
        ("given", "found"),
        [
            ("https://example.org", "https://example.org"),
            ("https://example.org/", "https://example.org"),
            (" HTTPS://Example.ORG:443/ ", "https://example.org"),
            ("http://example.org:80", "http://example.org"),
            ("http://example.org:443", "http://example.org:443"),
            ("http://localhost:3000/", "http://localhost:3000"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
            ("*", "*"),
            ("null", "null"),
        ],
    )
    def test_an_origin_is_written_as_browsers_write_it(self, given: str, found: str) -> None:
        assert checked_origin(given) == found

    @pytest.mark.parametrize(
        "given",
        [
            "example.org",
            "https://example.org/page",
            "https://example.org?a",
            "https://example.org#a",
            "https://",
            "",
            "https://user@example.org",
            "https://*.example.org",
            "https://example.org:port",
            "https://exa mple.org",
            "https://a,https://b",
        ],
    )
    def test_what_no_browser_sends_is_refused(self, given: str) -> None:
        with pytest.raises(UsageError, match="--cors-origin"):
            checked_origin(given)

    def preflight(self, app: InProcess, method: str = "POST", **headers: str) -> Any:
        asked = {"Origin": "https://example.org", "Access-Control-Request-Method": method}
        return app.request("OPTIONS", "/predict", headers={**asked, **headers})

    def test_every_header_that_a_client_sends_is_allowed(self, make: Callable[..., InProcess]) -> None:
        app = make(key="secret", origins=("https://example.org",))
        names = "authorization,content-type,user-agent,x-api-key,x-use-cache,traceparent,x-stainless-os,x-anything"
        found = self.preflight(app, **{"Access-Control-Request-Headers": names})
        assert found.status == 200
        assert found.headers["access-control-allow-headers"] == names
        assert found.headers["access-control-allow-origin"] == "https://example.org"
        assert "access-control-allow-credentials" not in found.headers
        assert self.preflight(app, method="HEAD").status == 200
        assert self.preflight(app, **{"Access-Control-Request-Private-Network": "true"}).status == 200
        assert self.preflight(app, **{"Origin": "https://example.com"}).status == 400
        assert self.preflight(app, method="DELETE").status == 400

    def test_a_page_may_read_answers_refusals_and_their_headers(self, make: Callable[..., InProcess]) -> None:
        app = make(key="secret", origins=("https://example.org",))
        for key in ("secret", "wrong"):
            headers = {"Origin": "https://example.org", "Authorization": f"Bearer {key}"}
            found = app.post("/predict", {"inputs": "a"}, headers=headers)
            assert found.headers["access-control-allow-origin"] == "https://example.org"
            assert "Retry-After" in found.headers["access-control-expose-headers"]


class TestProxy:
    """Behind a proxy with TLS, another name and a prefix."""

    def test_examples_have_the_address_that_the_client_used(self, app: InProcess) -> None:
        assert "curl http://server.test:8000/predict" in app.get("/docs").content
        assert "curl http://127.0.0.1:8000/predict" in app.get("/docs", headers={"Host": "<script>"}).content
        assert "&lt;" not in app.get("/docs", headers={"Host": "<script>"}).content

    def test_x_forwarded_headers_of_a_trusted_proxy_are_read(self, make: Callable[..., InProcess]) -> None:
        app = make(trusted=Trusted("10.0.0.0/8"))
        sent = {
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "api.example",
            "X-Forwarded-For": "198.51.100.7",
            "X-Forwarded-Prefix": "/imdb/",
        }
        found = app.get("/docs", headers=sent, client="10.1.2.3")
        assert "curl https://api.example/imdb/predict" in found.content
        assert app.log[-1]["client"] == "198.51.100.7"
        assert app.get("/api-doc/openapi.json", headers=sent, client="10.1.2.3").content["servers"] == [
            {"url": "/imdb"}
        ]
        # Those of anybody else are not.
        found = app.get("/docs", headers=sent, client="192.0.2.1")
        assert "curl http://server.test:8000/predict" in found.content
        assert app.log[-1]["client"] == "192.0.2.1"

    @pytest.mark.parametrize(
        ("headers", "url"),
        [
            (
                {"Forwarded": 'for=198.51.100.7;proto=https;host="api.example:8443", for=10.0.0.1'},
                "https://api.example:8443",
            ),
            ({"Forwarded": 'Proto=HTTPS;For="[2001:db8::1]:80"'}, "https://server.test:8000"),
            ({"X-Forwarded-Proto": "https, http", "X-Forwarded-Host": "api.example, proxy"}, "https://api.example"),
            ({"X-Forwarded-Host": "api.example", "X-Forwarded-Port": "8443"}, "http://api.example:8443"),
            ({"X-Forwarded-Proto": "https", "X-Forwarded-Port": "443", "Host": "api.example"}, "https://api.example"),
            ({"X-Forwarded-Host": "api.example:1", "X-Forwarded-Port": "2"}, "http://api.example:1"),
            ({"X-Forwarded-Host": "<b>", "X-Forwarded-Proto": "gopher"}, "http://server.test:8000"),
        ],
    )
    def test_headers_of_every_kind_of_proxy(
        self, make: Callable[..., InProcess], headers: dict[str, str], url: str
    ) -> None:
        app = make(trusted=Trusted("10.0.0.0/8"))
        assert f"curl {url}/predict" in app.get("/docs", headers=headers, client="10.1.2.3").content
        if "Forwarded" in headers:
            assert app.log[-1]["client"] in ("198.51.100.7", "2001:db8::1")

    def test_links_and_redirects_are_relative(self, app: InProcess) -> None:
        page = app.get("/docs").content
        assert 'href="api-doc/openapi.json"' in page and 'href="/' not in page
        assert "servers" not in app.get("/api-doc/openapi.json").content
        assert app.get("/web").headers["location"] == "web/"

    @pytest.mark.parametrize("prefix", ["", "/imdb"])
    def test_a_root_path_may_be_taken_off_by_the_proxy_or_not(
        self, make: Callable[..., InProcess], prefix: str
    ) -> None:
        app = make(root_path="/imdb")
        assert app.post(f"{prefix}/predict", {"inputs": "great film"}).status == 200
        assert app.get(f"{prefix}/health").status == 200
        assert app.get(prefix or "/").status == 200
        assert app.get(f"{prefix}/", headers={"Accept": "text/html"}).headers["location"] == "/imdb/docs"
        assert "curl http://server.test:8000/imdb/predict" in app.get(f"{prefix}/docs").content
        assert app.get(f"{prefix}/api-doc/openapi.json").content["servers"] == [{"url": "/imdb"}]
        assert app.get("/imdbx/health").status == 404

    def test_a_root_path_that_is_also_a_path_here(self, make: Callable[..., InProcess]) -> None:
        app = make(root_path="/models")
        for path in ("/models/sentiment", "/models/models/sentiment", "/predict", "/models/predict"):
            assert app.post(path, {"inputs": "great film"}).status == 200, path

    def test_targets_in_absolute_form_are_their_path(self, app: InProcess) -> None:
        for target in ("http://other.test/health", "http://other.test", "HTTPS://other.test/?a=b"):
            assert app.get(target).status == 200, target
        assert app.post("http://other.test:1/predict", {"inputs": "great film"}).status == 200
        assert "curl http://other.test:1/predict" in app.get("http://other.test:1/docs").content
        assert app.get("ftp://other.test/health").status == 404

    @pytest.mark.parametrize(
        ("trusted", "forwarded", "client"),
        [
            ("10.0.0.0/8", "198.51.100.7", "198.51.100.7"),
            ("10.0.0.0/8", "1.1.1.1, 198.51.100.7, 10.9.9.9", "198.51.100.7"),
            ("10.0.0.0/8", "10.9.9.9, 10.8.8.8", "10.9.9.9"),
            ("*", "1.1.1.1, 198.51.100.7", "1.1.1.1"),
            ("10.0.0.0/8", "[2001:db8::1]:443", "2001:db8::1"),
            ("10.0.0.0/8", "198.51.100.7:1234", "198.51.100.7"),
            ("10.0.0.0/8", "unknown", "10.1.2.3"),
            ("10.0.0.0/8", "", "10.1.2.3"),
        ],
    )
    def test_the_client_is_the_last_that_is_no_proxy(
        self, make: Callable[..., InProcess], trusted: str, forwarded: str, client: str
    ) -> None:
        app = make(trusted=Trusted(trusted))
        app.get("/health", headers={"X-Forwarded-For": forwarded}, client="10.1.2.3")
        assert app.log[-1]["client"] == client

    def test_wrong_values_of_the_options_are_refused(self) -> None:
        for wrong in ("localhost", "10.0.0.0/33", "127.0.0.1;::1"):
            with pytest.raises(UsageError, match="--forwarded-allow-ips"):
                Trusted(wrong)
        assert "::ffff:127.0.0.1" in Trusted("127.0.0.1") and "fe80::1%eth0" in Trusted("fe80::/10")
        assert [checked_root_path(path) for path in ("", "/", "imdb", "/a/b/")] == ["", "", "/imdb", "/a/b"]
        for wrong in ("https://example.org/imdb", "/a b", "/a?b", "/a//b"):
            with pytest.raises(UsageError, match="--root-path"):
                checked_root_path(wrong)


@pytest.mark.parametrize("has_loop_handlers", [True, False])
def test_signals_drain_on_a_system_whose_event_loop_has_no_handlers_for_them(
    monkeypatch: pytest.MonkeyPatch, has_loop_handlers: bool
) -> None:
    """Windows' event loops raise NotImplementedError."""
    import socket

    from edge_imdb.serve.run import ServeOptions, _Server
    from edge_imdb.serve.state import State

    assert threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    async def check() -> None:
        loop = asyncio.get_running_loop()
        if not has_loop_handlers:

            def missing(*arguments: Any) -> None:
                raise NotImplementedError

            monkeypatch.setattr(loop, "add_signal_handler", missing)
        with socket.socket() as listener:
            state = State(("sentiment",), Limits())
            server = _Server(ServeOptions(), state, listener)
            with server.capture_signals():
                signal.raise_signal(signal.SIGTERM)
                for _ in range(200):
                    await asyncio.sleep(0.01)
                    if server.should_exit:
                        break
            assert (state.stopping, server.signal, server.should_exit) == (True, signal.SIGTERM, True)
            if has_loop_handlers:
                for number in before:
                    loop.remove_signal_handler(number)

    try:
        asyncio.run(check())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# Below the application: uvicorn and h11, over a socket.


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(environment={"EDGE_IMDB_API_KEY": "secret\n"}) as running:
        yield running
        assert [line for line in running.log if line["event"] in ("failure", "no JSON")] == []


HEAD = "Host: x\r\nAuthorization: bearer secret"
BODY = b'{"inputs": "great film"}'


@pytest.mark.parametrize(
    "request_bytes",
    [
        f"POST /predict HTTP/1.0\r\nAuthorization: bearer secret\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
        + BODY,
        f"POST http://x/predict HTTP/1.1\r\n{HEAD}\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY,
        f"POST /predict/ HTTP/1.1\r\n{HEAD}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        + b"8\r\n"
        + BODY[:8]
        + b"\r\n10\r\n"
        + BODY[8:]
        + b"\r\n0\r\n\r\n",
        f"POST /%70redict?a=b HTTP/1.1\r\n{HEAD}\r\nContent-Length: {len(BODY)}\r\n"
        "Expect: 100-continue\r\n\r\n".encode()
        + BODY,
        f"POST /predict HTTP/1.1\r\n{HEAD}\r\nContent-Encoding: gzip\r\n"
        f"Content-Length: {len(gzip.compress(BODY, mtime=0))}\r\n\r\n".encode()
        + gzip.compress(BODY, mtime=0),
        # Java's HttpClient offers HTTP/2 with its first request.
        f"POST /predict HTTP/1.1\r\n{HEAD}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        f"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
        + BODY,
        # RFC 9112, section 2.2: old clients send them after a body.
        f"\r\n\r\nPOST /predict HTTP/1.1\r\n{HEAD}\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY,
    ],
    ids=["HTTP/1.0", "absolute form", "chunks", "Expect and a percent-encoded path", "gzip", "h2c", "empty lines"],
)
def test_requests_in_every_form_of_http(server: Server, request_bytes: bytes) -> None:
    received = server.raw(request_bytes)
    assert b"HTTP/1.1 200 OK" in received and b'[{"label":"pos"' in received, received[:500]


STRANGER = """
import json, sys
from huggingface_hub import InferenceClient

client = InferenceClient(model=sys.argv[1], token="secret")
print(client.text_classification("I like you"))
client = InferenceClient(model=sys.argv[1] + "/models/fill-mask", token="secret")
print(client.fill_mask("The goal of life is [MASK]."))
try:
    client.fill_mask("The goal of life is <mask>.")
except Exception as error:
    print(error)
"""


def test_the_examples_of_inference_client_run_with_another_model(server: Server, tmp_path: Path) -> None:
    """From the docstrings of huggingface_hub's text_classification and fill_mask; theirs is a RoBERTa with <mask>."""
    import os
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", STRANGER, server.url],
        env={**os.environ, "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second, third = done.stdout.splitlines()[0], done.stdout.splitlines()[1], done.stdout.split("\n", 2)[2]
    assert first.startswith("[TextClassificationOutputElement(label='pos', score=0.")
    assert second.count("FillMaskOutputElement(") == 5 and "sequence='the goal of life is " in second
    assert "write [MASK] in place of the word to fill in (<mask> is the placeholder of other models)." in third
