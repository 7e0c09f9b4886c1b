"""train_fill_mask: adapt a DistilBERT to film reviews by masked language modelling, in one loop.

Reviews are joined and cut into chunks of the same length, so there is no padding and no attention mask. The order of
the chunks depends on a seed and the epoch, the masked words on the seed, the epoch and the chunk, and dropout on the
seed and the step. Nothing else is random: a run that was killed and resumed has the same numbers as an uninterrupted
run, and two processes mask the chunks as one process would. The seed is computed from the option ``seed`` and the
initial weights, so a model that is trained further from its own result meets other masks, while the same texts are held
out.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import DistilBertForMaskedLM

from ..data.corpus import Texts, about_splits, load_texts
from ..data.masking import (
    EVALUATION_LENGTH,
    EVALUATION_PROBABILITY,
    IGNORED,
    Ids,
    Vocabulary,
    choose,
    draw,
    evaluation_batches,
    join_chunks,
    replace,
    sentence_chunks,
)
from ..data.splits import fingerprint
from ..errors import DataError, UsageError
from ..runtime.torch_device import computes_bf16
from ..tasks.fill_mask import FillMaskTask
from .base import check_vocabulary, interpolate, load_masked_lm, load_tokenizer
from .energy import EnergyMeter
from .options import FillMaskOptions, hyperparameters
from .progress import check_finite, read_log, write_record
from .runs import Run, described, fingerprint_of, has_accelerator, open_run, setting

TASK = FillMaskTask.name
CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"
LOG_STEPS = 20
# PyTorch's fused attention is faster from this length on. For shorter chunks, on a CPU without dropout, its backward
# pass costs more than writing the matrices out (width 384: 5,361 tokens a second against 4,408 at 32 chunks of 128,
# 4,358 against 4,047 at 256).
FUSED_ATTENTION_FROM = 384
# The number of masked positions is filled up to a multiple of this. It differs from batch to batch, and the blocks of
# logits, of 100 MB each, would fragment the heap if each had a new size: a run without this grew to 9.8 GB.
ROWS = 64


class AtRows(torch.nn.Module):
    """The model with its masked-LM head, which is a third of the arithmetic, applied only at the chosen positions."""

    def __init__(self, model: DistilBertForMaskedLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """*Shape:* ``input_ids`` and ``chosen`` ``(batch, length)``; logits ``(rows, vocabulary)``.

        ``rows`` is the number of chosen positions, filled up to the next multiple of 64.
        """
        model = self.model
        hidden = model.distilbert(input_ids=input_ids)[0][chosen]
        hidden = F.pad(hidden, (0, 0, 0, -len(hidden) % ROWS))
        hidden = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
        logits: torch.Tensor = model.vocab_projector(hidden)
        return logits


def train_fill_mask(options: FillMaskOptions, say: Callable[[str], None] = lambda line: None, task: str = TASK) -> Path:
    """Train a model of ``task`` as ``options`` say and return the finished folder, ``options.output/TASK``.

    Until it is finished, everything is in ``TASK.partial`` beside it, which ``options.resume`` continues. ``say``
    gets one line for each fact worth showing. With ``accelerate launch`` every process calls this.

    Raises UsageError, InputError, DataError, BaseModelError, HubError, OutputError, DivergedError.
    """
    options.check()
    with open_run(task, options, say, _last_checkpoint) as run:
        _train(options, run)
        return run.target


def _train(options: FillMaskOptions, run: Run) -> None:
    state = run.state
    bf16 = options.precision == "bf16" or (options.precision == "auto" and computes_bf16())
    # The Trainer of an earlier run in this process keeps its precision in a global state.
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=not has_accelerator(), mixed_precision="bf16" if bf16 else "no")

    # Data: chunks of token ids, (chunks, length), and what masking needs to know about the vocabulary.
    torch.manual_seed(options.seed)
    written_out = state.device.type == "cpu" and options.chunk_length < FUSED_ATTENTION_FROM
    model, new_head = load_masked_lm(
        options.base,
        options.chunk_length,
        options.dropout,
        options.attention_dropout,
        "eager" if written_out else "sdpa",
    )
    if options.interpolation < 1 and new_head:
        raise UsageError(
            f"--interpolation needs a --base with a masked-LM head, and {options.base} has none: leave it out, or give "
            "another --base."
        )
    checksum = _checksum(model)
    seed = _mix(options.seed, checksum)
    before = copy.deepcopy(model.state_dict()) if options.interpolation < 1 else None
    tokenizer = load_tokenizer(options.base, model.config.max_position_embeddings)
    backend = tokenizer.backend_tokenizer
    check_vocabulary(options.base, tokenizer, model.config.vocab_size)
    vocabulary = Vocabulary.of(backend, model.config.vocab_size)
    texts = load_texts(hyperparameters(options))
    measured = min(EVALUATION_LENGTH, model.config.max_position_embeddings)
    # Chosen by index, so that they are spread evenly over the texts.
    share_of = options.sentence_starts
    starting = [text for i, text in enumerate(texts.train) if int((i + 1) * share_of) > int(i * share_of)]
    others = [text for i, text in enumerate(texts.train) if int((i + 1) * share_of) == int(i * share_of)]
    parts = [join_chunks(backend, others, options.chunk_length)] if others else []
    if starting:
        parts.append(sentence_chunks(backend, starting, options.chunk_length))
    train = np.concatenate(parts)
    if not len(train):
        raise DataError(
            f"The reviews are too few for one chunk of {options.chunk_length} tokens: lower --chunk-length."
        )
    validation = join_chunks(backend, texts.validation, measured)
    beginning = sentence_chunks(backend, texts.validation, measured) if starting else None

    # A step takes gradient_accumulation batches of batch_size chunks on every process. The last step of an epoch may
    # have fewer, so that every chunk is read once.
    share = options.batch_size * options.gradient_accumulation
    steps_per_epoch = math.ceil(len(train) / (share * state.num_processes))
    total = math.ceil(steps_per_epoch * options.epochs)
    between = max(1, steps_per_epoch // options.evaluations_per_epoch)
    stops = {*range(between, total, between), total}

    run.begin(
        _until,
        {
            "the training texts": fingerprint_of(texts.train),
            "the validation texts": fingerprint_of(texts.validation),
            "the test texts": fingerprint_of(texts.test or []),
            "the base": fingerprint_of(backend.to_str(), checksum),
        },
    )

    # Model and optimiser. Biases and layer norms don't decay.
    decaying = [p for p in model.parameters() if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decaying, "weight_decay": options.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(options.adam_beta1, options.adam_beta2),
        eps=options.adam_epsilon,
        fused=True,
    )
    network, optimizer = accelerator.prepare(AtRows(model), optimizer)
    progress = _State()
    averaged: dict[str, torch.Tensor] = {}
    if run.checkpoint is not None:
        progress, averaged = _restore(run.checkpoint, model, optimizer)
    elif options.averaging:
        averaged = {name: value.detach().clone() for name, value in model.named_parameters()}
    meter = EnergyMeter(run.partial / "energy.json", options.country) if run.main else None
    device = described(state.device, state.num_processes, bf16)
    for line in _facts(texts, train, new_head):
        run.say(line)
    run.say(
        f"training {model.num_parameters() / 1e6:.1f}M parameters for {options.epochs:g} epochs of {steps_per_epoch} "
        f"steps, {device}"
    )

    def record(**figures: float) -> None:
        if run.main:
            epoch = round(progress.step / steps_per_epoch, 4)
            write_record({"step": progress.step, "epoch": epoch, **figures}, run.log)

    def save() -> None:
        if run.main:
            _save(run.partial / CHECKPOINT, model, optimizer, progress, averaged)
            assert meter is not None
            meter.save()

    bar = tqdm(total=total, initial=progress.step, desc="train", unit="step", smoothing=0.05,
               disable=not run.main)  # fmt: skip
    losses = torch.zeros(2, device=state.device)
    while True:
        # Measure on validation, which chooses the weights.
        if progress.step in stops and progress.step != progress.measured:
            save()
            with _weights_in_place(model, averaged):
                figures = _measure(network, validation, vocabulary, options.eval_batch_size, accelerator)
                check_finite(figures, progress.step, options.learning_rate)
                record(**{f"validation_{name}": value for name, value in figures.items()})
                if beginning is not None and len(beginning):
                    apart = _measure(network, beginning, vocabulary, options.eval_batch_size, accelerator)
                    record(**{f"sentence_starts_{name}": value for name, value in apart.items()})
                if figures["perplexity"] < progress.best_perplexity:
                    progress.best_perplexity, progress.best_step = figures["perplexity"], progress.step
                    if run.main:
                        _write(dict(model.state_dict()), run.partial / BEST, {})
            progress.measured = progress.step
            save()
            run.say(f"epoch {progress.step / steps_per_epoch:g}: validation perplexity {figures['perplexity']:.2f}")
        if progress.step == total:
            break

        # The chunks of this step, and of them this process's.
        epoch, within = divmod(progress.step, steps_per_epoch)
        mine = rows_of(len(train), seed, epoch, within, share, state.num_processes, state.process_index)
        batches = [
            _masked(train, mine[start : start + options.batch_size], (seed, epoch), options, vocabulary)
            for start in range(0, max(1, len(mine)), options.batch_size)
        ]
        counted = torch.tensor(float(sum(chosen.sum() for _, chosen, _ in batches)), device=state.device)
        count = float(accelerator.reduce(counted).clamp(min=1))

        # Forward and backward. The loss is the mean over all masked tokens of the step, on whichever process.
        torch.manual_seed(_mix(seed, progress.step, state.process_index))
        network.train()
        for number, (seen, chosen, labels) in enumerate(batches):
            last = number == len(batches) - 1
            with torch.enable_grad() if last else accelerator.no_sync(network):
                chosen_rows = torch.from_numpy(chosen).to(state.device)
                logits = network(torch.from_numpy(seen).long().to(state.device), chosen_rows)
                wanted = torch.full((len(logits),), IGNORED)
                wanted[: len(labels)] = torch.from_numpy(labels)
                loss = F.cross_entropy(logits.float(), wanted.to(state.device), ignore_index=IGNORED, reduction="sum")
                # DistributedDataParallel averages the gradients of the processes, and they are to be added.
                accelerator.backward(loss / count * state.num_processes)
            losses[0] += loss.detach()
        losses[1] += counted

        # Update, at a rate that rises linearly and then falls linearly to 0.
        norm = accelerator.clip_grad_norm_(network.parameters(), options.max_grad_norm)
        rate = _learning_rate(options, progress.step, total)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        if averaged:
            with torch.no_grad():
                torch._foreach_lerp_(list(averaged.values()), list(model.parameters()), 1 - options.averaging)
        progress.step += 1
        bar.update()

        if progress.step % LOG_STEPS == 0 or progress.step in stops:
            summed, tokens = accelerator.reduce(losses).tolist()
            losses.zero_()
            mean = summed / max(1.0, tokens)
            check_finite({"loss": mean, "grad_norm": float(norm)}, progress.step, options.learning_rate)
            record(loss=mean, learning_rate=rate, grad_norm=float(norm))
            bar.set_postfix(loss=f"{mean:.3f}")
        if progress.step % options.checkpoint_steps == 0 and progress.step not in stops:
            save()
    bar.close()

    # Test is read once, with the weights that validation chose.
    state.wait_for_everyone()
    _load_weights(model, load_file(run.partial / BEST))
    validated = None
    if before is not None:
        interpolate(model, before, options.interpolation)
        validated = _measure(network, validation, vocabulary, options.eval_batch_size, accelerator)
    tested = None
    if texts.test and not options.skip_test:
        test = join_chunks(backend, texts.test, measured)
        tested = _measure(network, test, vocabulary, options.eval_batch_size, accelerator)
    if run.main:
        assert meter is not None
        log = read_log(run.log, progress.step)
        cost = meter.stop()
        seen = min(total * share * state.num_processes, round(len(train) * options.epochs))
        metrics: dict[str, Any] = {
            "validation": validated or _best(log, "validation", progress.best_step),
            **({"test": tested} if tested is not None else {}),
            "best_step": progress.best_step,
            "epochs": _per_epoch(log),
            "evaluation": {"length": measured, "mask_probability": EVALUATION_PROBABILITY, "mask_unit": "word"},
            "data": {
                "train": len(texts.train),
                "validation": len(texts.validation),
                "test": len(texts.test) if texts.test else 0,
                "dropped_also_in_test": texts.dropped,
                "left_out": texts.left_out,
                "train_chunks": len(train),
                "validation_fingerprint": fingerprint(texts.validation),
            },
            "cost": {**cost, "country": options.country, "train_tokens": seen * train.shape[1]},
            **setting(options, device),
        }
        for split in ("validation", "test"):
            if split in metrics:
                run.say(_figures(split, metrics[split]))
        run.finish(model, tokenizer, metrics, log, "perplexity")


def _until(checkpoint: Path, log: list[dict[str, float]]) -> list[dict[str, float]]:
    """The records up to a checkpoint, without the figures of a measurement that was not finished."""
    at = _state_of(checkpoint)
    return [entry for entry in log if entry["step"] <= at.step and (entry["step"] <= at.measured or "loss" in entry)]


@dataclass
class _State:
    """The progress of a run. It is stored in the header of the checkpoint, so that both are written in one step."""

    step: int = 0
    measured: int = -1
    best_step: int = 0
    best_perplexity: float = math.inf


def rows_of(chunks: int, seed: int, epoch: int, step: int, share: int, processes: int, process: int) -> Any:
    """The chunks that ``process`` takes in a step of an epoch, at most ``share``. *Shape:* ``(rows,)``.

    Over the steps of an epoch and all processes, every chunk comes once. The order depends only on seed and epoch.
    """
    rows = _order(chunks, seed, epoch)[step * share * processes : (step + 1) * share * processes]
    return np.array_split(rows, processes)[process]


@functools.lru_cache(maxsize=1)
def _order(chunks: int, seed: int, epoch: int) -> Any:
    # RandomState's permutation is frozen (NEP 19); that of a Generator may change.
    return np.random.RandomState((seed * 1_000_003 + epoch) % 2**32).permutation(chunks)


def _masked(
    chunks: Ids, rows: Any, key: tuple[int, ...], options: FillMaskOptions, vocabulary: Vocabulary
) -> tuple[Any, Any, Any]:
    """The masked ids, the chosen positions, the original ids there. *Shape:* two ``(batch, length)``, ``(chosen,)``."""
    if not len(rows):
        # Without chunks in a short step, a process takes part with an empty batch, because the others wait for it.
        ids = chunks[:1]
        return ids, np.zeros(ids.shape, dtype=np.bool_), ids[:0, 0]
    ids, length = chunks[rows], chunks.shape[1]
    draws = draw(((*key, int(row), 1) for row in rows), 3 * length)
    chosen = choose(ids, vocabulary, options.mask_probability, draws[:, :length], options.mask_unit)
    seen = replace(ids, chosen, vocabulary, options.mask_policy, draws[:, length : 2 * length], draws[:, 2 * length :])
    return seen, chosen, ids[chosen]


def _learning_rate(options: FillMaskOptions, step: int, total: int) -> float:
    warmup = round(options.warmup * total)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    falling = max(1, min(total - warmup, round(options.decay * total)))
    return options.learning_rate * min(1.0, (total - step) / falling)


def _checksum(model: torch.nn.Module) -> int:
    """A checksum (CRC-32) of the weights."""
    found = 0
    for value in model.parameters():
        found = zlib.crc32(value.detach().numpy().tobytes(), found)
    return found


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@torch.no_grad()
def _measure(
    network: torch.nn.Module, chunks: Ids, vocabulary: Vocabulary, size: int, accelerator: Accelerator
) -> dict[str, float]:
    """Perplexity, top-1 and top-5 accuracy over the masked tokens of ``chunks``, which the processes share."""
    network.eval()
    state = accelerator.state
    rows: Sequence[int] = range(len(chunks))[state.process_index :: state.num_processes]
    sums = torch.zeros(4, dtype=torch.float64, device=state.device)
    batches = evaluation_batches(chunks, vocabulary, rows, size)
    for ids, labels in tqdm(batches, total=math.ceil(len(rows) / size), desc="measure", unit="batch", leave=False,
                            disable=not state.is_main_process):  # fmt: skip
        chosen = labels != IGNORED
        wanted = torch.from_numpy(labels[chosen]).long().to(state.device)
        if not len(wanted):
            continue
        module = accelerator.unwrap_model(network)
        with accelerator.autocast():
            logits = module(torch.from_numpy(ids).long().to(state.device), torch.from_numpy(chosen).to(state.device))[
                : len(wanted)
            ].float()
        best = logits.topk(5).indices == wanted[:, None]
        loss = F.cross_entropy(logits, wanted, reduction="sum")
        sums[:3] += torch.stack([loss, best[:, 0].sum(), best.any(1).sum()]).double()
        sums[3] += len(wanted)
    summed, first, five, tokens = accelerator.reduce(sums).tolist()
    if not tokens:
        raise DataError("No word of the held-out reviews was masked, because they are too few: raise --validation.")
    return {
        # The exponential of a larger number can't be represented; only a training that diverged has such a loss.
        "perplexity": math.exp(summed / tokens) if summed / tokens < 700 else math.inf,
        "log_loss": summed / tokens,
        "top1": first / tokens,
        "top5": five / tokens,
        "tokens": tokens,
    }


def _last_checkpoint(partial: Path) -> Path | None:
    path = partial / CHECKPOINT
    return path if path.is_file() else None


def _state_of(checkpoint: Path) -> _State:
    with safe_open(checkpoint, "pt") as file:
        return _State(**json.loads(file.metadata()["state"]))


@contextlib.contextmanager
def _weights_in_place(model: DistilBertForMaskedLM, averaged: dict[str, torch.Tensor]) -> Iterator[None]:
    """Inside the block the model has the ``averaged`` weights, if there are any; afterwards its own again."""
    own = {name: value.detach().clone() for name, value in model.named_parameters()} if averaged else {}
    with torch.no_grad():
        for name, value in model.named_parameters():
            if averaged:
                value.copy_(averaged[name])
        yield
        for name, value in model.named_parameters():
            if averaged:
                value.copy_(own[name])


def _save(
    path: Path, model: DistilBertForMaskedLM, optimizer: Any, progress: _State, averaged: dict[str, torch.Tensor]
) -> None:
    """Save weights, their average, AdamW's two moments and the progress, in one file that is whole or absent."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            # Empty before the first step.
            if parameter in optimizer.state:
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    tensors.update({f"averaged.{name}": value for name, value in averaged.items()})
    _write(tensors, path, {"state": json.dumps(vars(progress))})


def _write(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Save tensors to a temporary file and rename it; tied ones are stored once."""
    seen: set[int] = set()
    unique = {}
    for name, value in tensors.items():
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            unique[name] = value.detach().contiguous()
    temporary = path.with_suffix(".tmp")
    save_file(unique, temporary, metadata)
    temporary.replace(path)


def _restore(path: Path, model: DistilBertForMaskedLM, optimizer: Any) -> tuple[_State, dict[str, torch.Tensor]]:
    tensors = load_file(path)
    _load_weights(
        model, {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    )
    progress = _state_of(path)
    for name, parameter in model.named_parameters():
        if f"exp_avg.{name}" in tensors:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(progress.step), device=parameter.device),
                **{moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in ("exp_avg", "exp_avg_sq")},
            }
    averaged = {
        name: tensors[f"averaged.{name}"].to(parameter.device)
        for name, parameter in model.named_parameters()
        if f"averaged.{name}" in tensors
    }
    return progress, averaged


def _load_weights(model: DistilBertForMaskedLM, tensors: dict[str, torch.Tensor]) -> None:
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    # Tied to the embeddings, and so stored once.
    assert set(missing) <= {"vocab_projector.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()


def _facts(texts: Texts, train: Ids, new_head: bool) -> list[str]:
    facts = about_splits(
        len(texts.train),
        len(texts.validation),
        len(texts.test) if texts.test else None,
        texts.dropped,
        texts.left_out,
    )
    facts.append(f"{len(train)} chunks of {train.shape[1]} tokens to train on")
    if new_head:
        facts.append("the base has no masked-LM head: it gets one that begins as the identity")
    return facts


def _best(log: list[dict[str, float]], split: str, step: int) -> dict[str, float]:
    return next(figures for figures in _measurements(log, split) if figures.pop("step") == step)


def _measurements(log: list[dict[str, float]], split: str) -> list[dict[str, float]]:
    return [
        {name.removeprefix(f"{split}_"): value for name, value in record.items() if name != "epoch"}
        for record in log
        if f"{split}_perplexity" in record
    ]


def _per_epoch(log: list[dict[str, float]]) -> list[dict[str, float]]:
    rows: dict[float, dict[str, float]] = {}
    for record in log:
        for name in ("validation_perplexity", "sentence_starts_perplexity"):
            if name in record:
                rows.setdefault(record["epoch"], {"epoch": record["epoch"]})[name] = record[name]
    return list(rows.values())


def _figures(split: str, figures: dict[str, float]) -> str:
    return (
        f"{split}: perplexity {figures['perplexity']:.2f}, top-1 {100 * figures['top1']:.2f} %, "
        f"top-5 {100 * figures['top5']:.2f} % of {figures['tokens']:.0f} masked tokens"
    )
