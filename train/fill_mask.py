"""train_fill_mask: adapts a DistilBERT to film talk by masked language modelling; one file, from top to bottom.

Reviews are joined and cut into chunks that all have the same length, so there is no padding and no attention mask. The
order of the chunks comes from the seed and the epoch, the words to mask from the seed, the epoch and the chunk, dropout
from the seed and the step. Nothing else is random: a run that was killed and resumed meets the numbers that it would
have met, and two processes mask the chunks as one would.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import DistilBertForMaskedLM

from ..corpus import Texts, load_texts
from ..errors import BaseModelError, DataError, UsageError
from ..masking import (
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
)
from ..options import FillMaskOptions, hyperparameters
from ..splits import fingerprint
from .base import load_masked_lm, load_tokenizer
from .card import publish_to_hub, write_fill_mask_card
from .energy import EnergyMeter
from .progress import read_log, write_log, write_record
from .runs import (
    check_options,
    computes_bf16,
    described,
    find_checkpoint,
    finish,
    has_accelerator,
    keep_memory,
    open_partial,
    quiet_libraries,
    setting,
    writing,
)

TASK = "fill-mask"
CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"
LOG_STEPS = 20
# PyTorch's fused attention is the faster one from this length on; below it, and on a CPU with no dropout, its backward
# pass costs more than writing the matrices out (width 384: 5,361 tokens a second against 4,408 at 32 chunks of 128,
# 4,358 against 4,047 at 256).
FUSED_ATTENTION_FROM = 384
# Masked positions are filled up to a multiple of this. Their number differs from batch to batch, and blocks of logits,
# of 100 MB each, in ever new sizes fragment the heap: a run that had none of this grew to 9.8 GB.
ROWS = 64


class AtRows(torch.nn.Module):
    """The masked-LM head at chosen positions only: it is a third of the arithmetic, and 15 % of the positions count."""

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


def train_fill_mask(options: FillMaskOptions, say: Callable[[str], None] = lambda line: None) -> Path:
    """Train as ``options`` say and return the finished folder, ``options.output/fill-mask``.

    Until it is finished, everything stands in its sibling ``fill-mask.partial``, from which ``options.resume`` goes on.
    ``say`` gets a line for each fact worth showing. Under ``accelerate launch`` every process calls this.

    Raises UsageError, InputError, DataError, BaseModelError, HubError, OutputError.
    """
    check_options(options, positive=("chunk_length", "checkpoint_steps"))
    if not 0 < options.mask_probability <= 1:
        raise UsageError(f"--mask-probability is {options.mask_probability}: it must be over 0 and at most 1.")
    quiet_libraries()
    keep_memory()
    state = PartialState(cpu=not has_accelerator())
    if not state.is_main_process:
        say = lambda line: None  # noqa: E731
    target = Path(options.output) / TASK
    with writing(target, state.is_main_process):
        _train(options, target, state, say)
    return target


def _train(options: FillMaskOptions, target: Path, state: PartialState, say: Callable[[str], None]) -> None:
    partial = target.with_name(f"{TASK}.partial")
    checkpoint = find_checkpoint(options, target, partial, state.num_processes, _last_checkpoint)
    bf16 = options.precision == "bf16" or (options.precision == "auto" and computes_bf16())
    # Where a run of the other task went before in this process, its Trainer left a precision behind.
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=not has_accelerator(), mixed_precision="bf16" if bf16 else "no")

    # Data: chunks of token ids, (chunks, length), and what masking has to know of the vocabulary.
    torch.manual_seed(options.seed)
    written_out = state.device.type == "cpu" and options.chunk_length < FUSED_ATTENTION_FROM
    model, new_head = load_masked_lm(
        options.base,
        options.chunk_length,
        options.dropout,
        options.attention_dropout,
        "eager" if written_out else "sdpa",
    )
    tokenizer = load_tokenizer(options.base, model.config.max_position_embeddings)
    backend = tokenizer.backend_tokenizer
    vocabulary = Vocabulary.of(backend, model.config.vocab_size)
    if len(vocabulary.starts) > model.config.vocab_size:
        raise BaseModelError(
            f"{options.base} has {model.config.vocab_size} embeddings and a tokenizer of {len(vocabulary.starts)} "
            "tokens: use a checkpoint whose tokenizer is its own."
        )
    texts = load_texts(hyperparameters(options))
    measured = min(EVALUATION_LENGTH, model.config.max_position_embeddings)
    train = join_chunks(backend, texts.train, options.chunk_length)
    validation = join_chunks(backend, texts.validation, measured)
    test = join_chunks(backend, texts.test, measured) if texts.test else None

    # Steps: one takes batch_size chunks from every process gradient_accumulation times; the last of an epoch may be
    # short, so that every chunk is seen once.
    share = options.batch_size * options.gradient_accumulation
    steps_per_epoch = math.ceil(len(train) / (share * state.num_processes))
    total = math.ceil(steps_per_epoch * options.epochs)
    stops = {*range(steps_per_epoch, total, steps_per_epoch), total}

    # Not before everything that a wrong option would stop at.
    state.wait_for_everyone()
    if state.is_main_process:
        if checkpoint is None:
            open_partial(TASK, options, partial, state.num_processes)
        else:
            # What the log says beyond the checkpoint will be said again.
            at = _state_of(checkpoint)
            kept = [
                entry
                for entry in read_log(partial / "log.jsonl", at.step)
                if entry["step"] <= at.measured or "loss" in entry
            ]
            write_log(kept, partial / "log.jsonl")
    state.wait_for_everyone()

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
    if checkpoint is not None:
        progress = _restore(checkpoint, model, optimizer)
    meter = EnergyMeter(partial / "energy.json", options.country) if state.is_main_process else None
    device = described(state.device, state.num_processes, bf16)
    for line in _facts(texts, train, new_head):
        say(line)
    say(
        f"training {model.num_parameters() / 1e6:.1f}M parameters for {options.epochs:g} epochs of {steps_per_epoch} "
        f"steps, {device}"
    )

    def record(**figures: float) -> None:
        if state.is_main_process:
            epoch = round(progress.step / steps_per_epoch, 4)
            write_record({"step": progress.step, "epoch": epoch, **figures}, partial / "log.jsonl")

    def save() -> None:
        if state.is_main_process:
            _save(partial / CHECKPOINT, model, optimizer, progress)
            assert meter is not None
            meter.save()

    bar = tqdm(total=total, initial=progress.step, desc="train", unit="step", smoothing=0.05,
               disable=not state.is_main_process)  # fmt: skip
    losses = torch.zeros(2, device=state.device)
    while True:
        # Measure after each epoch. Validation chooses the weights; test is only written down.
        if progress.step in stops and progress.step != progress.measured:
            save()
            figures = _measure(network, validation, vocabulary, options.eval_batch_size, accelerator)
            record(**{f"validation_{name}": value for name, value in figures.items()})
            if test is not None:
                after = _measure(network, test, vocabulary, options.eval_batch_size, accelerator)
                record(**{f"test_{name}": value for name, value in after.items()})
            if figures["perplexity"] < progress.best_perplexity:
                progress.best_perplexity, progress.best_step = figures["perplexity"], progress.step
                if state.is_main_process:
                    _write(dict(model.state_dict()), partial / BEST, {})
            progress.measured = progress.step
            save()
            say(f"epoch {progress.step / steps_per_epoch:g}: validation perplexity {figures['perplexity']:.2f}")
        if progress.step == total:
            break

        # The chunks of this step, and of them this process's.
        epoch, within = divmod(progress.step, steps_per_epoch)
        mine = rows_of(len(train), options.seed, epoch, within, share, state.num_processes, state.process_index)
        batches = [
            _masked(train, mine[start : start + options.batch_size], epoch, options, vocabulary)
            for start in range(0, max(1, len(mine)), options.batch_size)
        ]
        counted = torch.tensor(float(sum(chosen.sum() for _, chosen, _ in batches)), device=state.device)
        count = float(accelerator.reduce(counted).clamp(min=1))

        # Forward and backward. The loss is the mean over all masked tokens of the step, on whichever process.
        torch.manual_seed(_mix(options.seed, progress.step, state.process_index))
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
        progress.step += 1
        bar.update()

        if progress.step % LOG_STEPS == 0 or progress.step in stops:
            summed, tokens = accelerator.reduce(losses).tolist()
            losses.zero_()
            mean = summed / max(1.0, tokens)
            if not math.isfinite(mean):
                raise UsageError(f"The loss is {mean} at step {progress.step}: lower --learning-rate.")
            record(loss=mean, learning_rate=rate, grad_norm=float(norm))
            bar.set_postfix(loss=f"{mean:.3f}")
        if progress.step % options.checkpoint_steps == 0 and progress.step not in stops:
            save()
    bar.close()

    if state.is_main_process:
        assert meter is not None
        log = read_log(partial / "log.jsonl", progress.step)
        _load_weights(model, load_file(partial / BEST))
        cost = meter.stop()
        seen = min(total * share * state.num_processes, round(len(train) * options.epochs))
        metrics: dict[str, Any] = {
            "task": TASK,
            "validation": _best(log, "validation", progress.best_step),
            **({"test": _best(log, "test", progress.best_step)} if test is not None else {}),
            "best_step": progress.best_step,
            "epochs": _per_epoch(log),
            "evaluation": {"length": measured, "mask_probability": EVALUATION_PROBABILITY, "mask_unit": "word"},
            "data": {
                "train": len(texts.train),
                "validation": len(texts.validation),
                "test": len(texts.test) if texts.test else 0,
                "dropped_also_in_test": texts.dropped,
                "train_chunks": len(train),
                "validation_fingerprint": fingerprint(texts.validation),
            },
            "cost": {**cost, "country": options.country, "train_tokens": seen * train.shape[1]},
            **setting(options, device),
        }
        finish(target, partial, model, tokenizer, metrics, log, "perplexity", write_fill_mask_card)
        for split in ("validation", "test"):
            if split in metrics:
                say(_figures(split, metrics[split]))
        say(f"wrote {target}")
        if options.push_to_hub:
            say(f"uploaded to {publish_to_hub(target, options.push_to_hub)}")
    state.wait_for_everyone()


@dataclass
class _State:
    """Where a run stands; it travels in the header of the checkpoint, so that both are written in one step."""

    step: int = 0
    measured: int = -1
    best_step: int = 0
    best_perplexity: float = math.inf


def rows_of(chunks: int, seed: int, epoch: int, step: int, share: int, processes: int, process: int) -> Any:
    """The chunks that ``process`` takes in a step of an epoch, at most ``share``. *Shape:* ``(rows,)``.

    Over an epoch's steps and all processes every chunk comes once; the order depends on seed and epoch alone.
    """
    rows = _order(chunks, seed, epoch)[step * share * processes : (step + 1) * share * processes]
    return np.array_split(rows, processes)[process]


@functools.lru_cache(maxsize=1)
def _order(chunks: int, seed: int, epoch: int) -> Any:
    # RandomState's permutation is frozen (NEP 19); that of a Generator may change.
    return np.random.RandomState((seed * 1_000_003 + epoch) % 2**32).permutation(chunks)


def _masked(
    chunks: Ids, rows: Any, epoch: int, options: FillMaskOptions, vocabulary: Vocabulary
) -> tuple[Any, Any, Any]:
    """What the model sees, the places to predict, the tokens there. *Shape:* two ``(batch, length)``, ``(chosen,)``."""
    if not len(rows):
        # A process with nothing left in a short step still takes part in it, and adds nothing.
        ids = chunks[:1]
        return ids, np.zeros(ids.shape, dtype=np.bool_), ids[:0, 0]
    ids, length = chunks[rows], chunks.shape[1]
    draws = draw(((options.seed, epoch, int(row), 1) for row in rows), 3 * length)
    chosen = choose(ids, vocabulary, options.mask_probability, draws[:, :length], options.mask_unit)
    seen = replace(ids, chosen, vocabulary, options.mask_policy, draws[:, length : 2 * length], draws[:, 2 * length :])
    return seen, chosen, ids[chosen]


def _learning_rate(options: FillMaskOptions, step: int, total: int) -> float:
    warmup = round(options.warmup * total)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    return options.learning_rate * (total - step) / max(1, total - warmup)


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@torch.no_grad()
def _measure(
    network: torch.nn.Module, chunks: Ids, vocabulary: Vocabulary, size: int, accelerator: Accelerator
) -> dict[str, float]:
    """Perplexity, top-1 and top-5 accuracy over the masked tokens of ``chunks``, which the processes share out."""
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
        raise DataError("The held-out reviews are so few that no word of them was masked: raise --validation.")
    return {
        "perplexity": math.exp(summed / tokens),
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


def _save(path: Path, model: DistilBertForMaskedLM, optimizer: Any, progress: _State) -> None:
    """Weights, AdamW's two moments and the place in the run, in one file that is whole or absent."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            # Empty before the first step.
            if parameter in optimizer.state:
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    _write(tensors, path, {"state": json.dumps(vars(progress))})


def _write(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Save tensors under another name and rename; tied ones are stored once."""
    seen: set[int] = set()
    unique = {}
    for name, value in tensors.items():
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            unique[name] = value.detach().contiguous()
    temporary = path.with_suffix(".tmp")
    save_file(unique, temporary, metadata)
    temporary.replace(path)


def _restore(path: Path, model: DistilBertForMaskedLM, optimizer: Any) -> _State:
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
    return progress


def _load_weights(model: DistilBertForMaskedLM, tensors: dict[str, torch.Tensor]) -> None:
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    # Tied to the embeddings, and so stored once.
    assert set(missing) <= {"vocab_projector.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()


def _facts(texts: Texts, train: Ids, new_head: bool) -> list[str]:
    facts = [
        f"reviews: {len(texts.train)} train, {len(texts.validation)} validation, "
        f"{len(texts.test) if texts.test else 'no'} test",
        f"{len(train)} chunks of {train.shape[1]} tokens to train on",
    ]
    if texts.dropped:
        facts.insert(0, f"dropped {texts.dropped} train reviews that also stand in the test split")
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
        for name in ("validation_perplexity", "test_perplexity"):
            if name in record:
                rows.setdefault(record["epoch"], {"epoch": record["epoch"]})[name] = record[name]
    return list(rows.values())


def _figures(split: str, figures: dict[str, float]) -> str:
    return (
        f"{split}: perplexity {figures['perplexity']:.2f}, top-1 {100 * figures['top1']:.2f} %, "
        f"top-5 {100 * figures['top5']:.2f} % of {figures['tokens']:.0f} masked tokens"
    )
