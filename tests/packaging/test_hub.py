"""The staged build, loaded from a hub: `Hub` serves it to fresh processes, over the loopback interface."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

REPOSITORY = "org/metal-flash-sdpa"
BRANCHES = ("main", "v1")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHERS_SETTINGS = (
    "HF_",
    "HUGGINGFACE_",
    "KERNELS_",
    "LOCAL_KERNELS",
    "DIFFUSERS_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
)


class Hub(ThreadingHTTPServer):
    """Serves the folder `build` as build/ of the kernel repository REPOSITORY, version 1, at COMMIT.

    trusted: what it says of the publisher.
    files: paths of the files that it gave away.
    unknown: requests that it did not understand.
    """

    daemon_threads = True

    def __init__(self, build: Path) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.build = build
        self.trusted = False
        self.files: set[str] = set()
        self.unknown: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str) -> object | None:
        """What the hub says of its repository, None if it does not know `path`."""
        api = f"/api/kernels/{REPOSITORY}"
        return {
            f"/api/organizations/{REPOSITORY.partition('/')[0]}/overview": {
                "name": "org", "fullname": "org", "avatarUrl": "", "trustedKernelPublisher": self.trusted,
            },
            f"{api}/refs": {
                "branches": [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": COMMIT} for name in BRANCHES],
                "converts": [], "tags": [],
            },
            f"{api}/tree/{COMMIT}/build": [
                {"type": "directory", "path": f"build/{variant.name}", "oid": COMMIT, "size": 0}
                for variant in self.build.iterdir()
            ],
            f"{api}/tree/{COMMIT}": [
                {"type": "file", "path": path, "oid": entity_tag(contents), "size": len(contents)}
                for path, contents in self.contents().items()
            ],
        }.get(path)  # fmt: skip

    def contents(self) -> dict[str, bytes]:
        """The repository's files; bytecode is what loading leaves in a build."""
        paths = [path for path in self.build.rglob("*") if path.is_file() and path.suffix != ".pyc"]
        return {f"build/{path.relative_to(self.build).as_posix()}": path.read_bytes() for path in paths}


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        for branch, kind in itertools.product(BRANCHES, ("tree", "resolve", "revision")):
            path = path.replace(f"/{kind}/{branch}/", f"/{kind}/{COMMIT}/")
        name = path.removeprefix(f"/kernels/{REPOSITORY}/resolve/{COMMIT}/")
        answer = self.server.answer(path)
        if name != path and name in self.server.contents():
            if self.command == "GET":
                self.server.files.add(name)
            self.reply(200, self.server.contents()[name], "application/octet-stream")
        elif answer is not None:
            self.reply(200, json.dumps(answer).encode(), "application/json")
        else:
            self.server.unknown.append(f"{self.command} {self.path}")
            self.reply(404, b"{}", "application/json")

    do_HEAD = do_GET

    def reply(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{entity_tag(body)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        """Quiet."""


def entity_tag(contents: bytes) -> str:
    return hashlib.sha1(contents).hexdigest()


@pytest.fixture
def hub(build: Path) -> Iterator[Hub]:
    with Hub(build) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run_python(code: str, hub: Hub, home: Path, **settings: str) -> subprocess.CompletedProcess:
    """Runs `code` in a fresh interpreter that knows no hub but this one, and nothing of earlier downloads."""
    own = {name: value for name, value in os.environ.items() if not name.upper().startswith(OTHERS_SETTINGS)}
    environment = {**own, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), **settings}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def output(code: str, hub: Hub, home: Path, **settings: str) -> dict:
    """The JSON that `code` prints in its last line."""
    result = run_python(code, hub, home, **settings)
    assert result.returncode == 0, f"{result.stderr}\n{hub.unknown}"
    return json.loads(result.stdout.splitlines()[-1])


LOAD = f"""
import json, torch
from kernels import get_kernel
kernel = get_kernel("{REPOSITORY}", version=1, trust_remote_code=True)
"""
USE = """
query = torch.randn(2, 7, 4, 32)
attention = kernel.flash_attn_func(query, query, query, causal=True)
heads = query.transpose(1, 2)
expected = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True).transpose(1, 2)
print(json.dumps({"name": kernel.__name__, "error": float((attention - expected).abs().max())}))
"""
REFUSED = f"""
import json
from kernels import get_kernel
errors = []
for arguments in ({{"version": 1}}, {{"version": 2, "trust_remote_code": True}}, {{"trust_remote_code": True}}):
    try:
        get_kernel("{REPOSITORY}", **arguments)
    except ValueError as error:
        errors.append(str(error))
print(json.dumps(errors))
"""
MODEL = """
import json, sys, torch
from transformers import AutoModelForCausalLM, LlamaConfig
config = LlamaConfig(vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, initializer_range=0.2, pad_token_id=0)
AutoModelForCausalLM.from_config(config).save_pretrained({folder!r})
tokens = torch.randint(1, 97, (2, 11))
mask = torch.tensor([[0] * 4 + [1] * 7, [1] * 11])  # so that both functions are called
eager = AutoModelForCausalLM.from_pretrained({folder!r}, attn_implementation="eager")
errors = {{}}
for name in {names}:
    ours = AutoModelForCausalLM.from_pretrained({folder!r}, attn_implementation=name, allow_all_kernels=True)
    with torch.inference_mode():
        outputs = [
            (model(tokens).logits, model(tokens, attention_mask=mask).logits[mask.bool()]) for model in (ours, eager)
        ]
    found = [float((output - expected).abs().max() / expected.abs().max()) for output, expected in zip(*outputs)]
    errors[ours.config._attn_implementation] = max(found)
kernels = [name for name in sys.modules if name.startswith("_metal_flash_sdpa_") and "." not in name]
print(json.dumps({{"kernels": kernels, "errors": errors}}))
"""
DIFFUSERS = f"""
import json, torch
from diffusers import FluxTransformer2DModel
from diffusers.models import attention_dispatch
flash = attention_dispatch.AttentionBackendName.FLASH_HUB
config = attention_dispatch._HubKernelConfig(repo_id="{REPOSITORY}", function_attr="flash_attn_func", version=1)
attention_dispatch._HUB_KERNELS_REGISTRY[flash] = config
torch.manual_seed(0)
model = FluxTransformer2DModel(
    in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
    joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
).eval()
inputs = dict(
    hidden_states=torch.randn(2, 16, 4), encoder_hidden_states=torch.randn(2, 8, 32), timestep=torch.ones(2),
    pooled_projections=torch.randn(2, 32), img_ids=torch.rand(16, 3), txt_ids=torch.zeros(8, 3),
)
with torch.inference_mode():
    expected = model(**inputs).sample
    model.set_attention_backend("flash_hub")
    kernel, calls = config.kernel_fn, []
    config.kernel_fn = lambda **arguments: calls.append(sorted(arguments)) or kernel(**arguments)
    ours = model(**inputs).sample
error = float((ours - expected).abs().max() / expected.abs().max())
print(json.dumps({{"name": kernel.__module__.partition(".")[0], "calls": calls, "error": error}}))
"""


def identifier(build: Path) -> str:
    return json.loads((build / "torch-cpu" / "metadata.json").read_text())["id"]


def variant_files(hub: Hub, variant: str) -> set[str]:
    return {path for path in hub.contents() if path.startswith(f"build/{variant}/")}


def test_get_kernel(hub: Hub, build: Path, tmp_path: Path) -> None:
    """The variant for this machine, complete, and nothing else."""
    found = output(LOAD + USE, hub, tmp_path)
    assert found["name"] == identifier(build) and found["error"] <= 1e-5
    assert hub.files == variant_files(hub, "torch-cpu")


def test_what_a_hub_refuses(hub: Hub, tmp_path: Path) -> None:
    """A publisher that is not trusted, unless the user says so; a version that there is not; no version at all."""
    untrusted, missing, unspecified = output(REFUSED, hub, tmp_path)
    assert "not from a trusted publisher" in untrusted
    assert "Version 2 not found, available versions: 1" in missing
    assert "version or revision must be specified" in unspecified
    assert hub.files == set()


def test_a_model_takes_it_by_name(hub: Hub, build: Path, tmp_path: Path) -> None:
    """And by name and branch, which is another way through the hub."""
    names = [REPOSITORY, f"{REPOSITORY}@v1"]
    found = output(MODEL.format(folder=str(tmp_path / "model"), names=names), hub, tmp_path / "home")
    assert found["kernels"] == [identifier(build)]
    assert list(found["errors"]) == names and max(found["errors"].values()) <= 1e-4
    assert hub.files == variant_files(hub, "torch-cpu")


def test_a_model_takes_a_local_build_by_the_same_name(hub: Hub, build: Path, tmp_path: Path) -> None:
    code = MODEL.format(folder=str(tmp_path / "model"), names=[REPOSITORY])
    found = output(code, hub, tmp_path / "home", LOCAL_KERNELS=f"{REPOSITORY}={build}")
    assert found["kernels"] == [identifier(build)]
    assert list(found["errors"]) == [REPOSITORY] and max(found["errors"].values()) <= 1e-4
    assert hub.files == set()


def test_diffusers(hub: Hub, build: Path, tmp_path: Path) -> None:
    """Its registry has no entry for this kernel: a user writes one."""
    pytest.importorskip("diffusers", minversion="0.42", reason="diffusers is no requirement of the tests")
    found = output(DIFFUSERS, hub, tmp_path, DIFFUSERS_TRUST_REMOTE_KERNELS="true")
    assert found["name"] == identifier(build) and found["error"] <= 1e-4
    passed = ["causal", "dropout_p", "k", "q", "return_attn_probs", "softmax_scale", "v", "window_size"]
    assert found["calls"] == [passed] * 2
