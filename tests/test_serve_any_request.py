"""edge-imdb serve under any request that its own OpenAPI document allows or forbids, and any bytes: never a 500."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Server, serving

from edge_imdb import FillMask, Sentiment
from edge_imdb.serve.errors import RequestError
from edge_imdb.serve.limits import Limits
from edge_imdb.tasks import TASKS
from edge_imdb.tasks.http import Endpoint

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # Short texts, for time: the schema has the limits of the server that it comes from.
    with serving("--max-characters", 500, "--max-texts", 4, "--max-wait", 600) as running:
        yield running


def test_every_answer_is_as_the_openapi_document_declares_it(server: Server, tmp_path: Path) -> None:
    """schemathesis makes requests that follow the document and requests that break it, and checks each answer."""
    program = Path(sys.executable).with_name("st")
    done = subprocess.run(
        [program, "run", f"{server.url}/api-doc/openapi.json", "--checks", ",".join(CHECKS)]
        + ["--max-examples", "25", "--seed", "0", "--generation-database", "none"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert [line for line in server.log if line["event"] == "failure"] == []
    answered = [line["status"] for line in server.log if line["event"] == "request"]
    # Both kinds, and enough of them.
    assert answered.count(200) > 50 and answered.count(422) > 20, sorted(answered)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["[MASK]", "none", "great film", "\ud800", "Left"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["inputs", "parameters", "top_k", "targets", "function_to_apply", "truncate", "raw_scores"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
bodies = st.dictionaries(
    st.sampled_from(["inputs", "parameters", "raw_scores", "truncate", "truncation_direction"]), values, max_size=4
)


ENDPOINTS = [(task, endpoint) for task in TASKS for endpoint in TASKS[task].http.endpoints]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {"sentiment": Sentiment(threads=1), "fill-mask": FillMask(threads=1)}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    of=st.sampled_from(ENDPOINTS),
    body=st.binary(max_size=60)
    | values.map(lambda v: json.dumps(v).encode())
    | bodies.map(lambda v: json.dumps(v).encode()),
)
def test_any_body_is_either_answered_in_json_or_refused_as_a_wrong_request(
    models: dict[str, Any], of: tuple[str, Endpoint], body: bytes
) -> None:
    from edge_imdb.errors import InputError, UsageError

    task, endpoint = of
    try:
        request = endpoint.parse(body, models[task], Limits())
    except RequestError as error:
        assert error.status in (400, 413, 422) and str(error)
        return
    assert request.weight >= len(request.calls) >= 1
    try:
        answer = request.answer([call() for call in request.calls])
    except (InputError, UsageError, RequestError):
        return
    json.dumps(answer, allow_nan=False)
