"""TokenDroppingClassifier: a DistilBERT classifier that is trained to keep fewer tokens from layer to layer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import DistilBertConfig, DistilBertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from ..edge_graph.schedule import AT_LEAST, Schedule

# Share of the training batches that keep all tokens, because the fp32 graph and --exact keep all tokens too.
WHOLE = 0.2


class TokenDroppingClassifier(DistilBertForSequenceClassification):
    """DistilBertForSequenceClassification with the same weights, which drops tokens as ``schedule`` says.

    After the attention of a layer only the tokens that received most attention stay, summed over heads and queries;
    ``[CLS]`` always stays. The last layer is computed for ``[CLS]`` alone. It computes what the edge graph of
    ``edge_graph/write.py`` computes with the same schedule. While training, a share of WHOLE of the batches keeps all
    tokens. Source: Goyal et al. 2020, "PoWER-BERT", section 3; here the schedule is given and not learnt.
    """

    def __init__(self, config: DistilBertConfig, schedule: Schedule) -> None:
        super().__init__(config)
        schedule.check(config.n_layers)
        self.schedule = schedule

    @classmethod
    def of(cls, model: DistilBertForSequenceClassification, schedule: Schedule) -> TokenDroppingClassifier:
        """``model``, with a schedule. Raises UsageError if the schedule doesn't fit its layers."""
        made = cls(model.config, schedule)
        made.load_state_dict(model.state_dict())
        return made

    def plain(self) -> DistilBertForSequenceClassification:
        """The standard model with these weights, which transformers saves under its own name."""
        made = DistilBertForSequenceClassification(self.config)
        made.load_state_dict(self.state_dict())
        return made

    # The parent's arguments differ between versions of transformers, so this has its own.
    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits, and the loss if there are labels. *Shape:* ``(batch, length)`` twice, ``(batch,)``."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self._first_rows(input_ids, mask.bool())
        pooled = self.dropout(torch.relu(self.pre_classifier(states)))
        logits = self.classifier(pooled)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _first_rows(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The hidden states of ``[CLS]`` after the last layer. *Shape:* ``(batch, length)`` to ``(batch, width)``."""
        layers = self.distilbert.transformer.layer
        hidden = self.distilbert.embeddings(ids)
        lengths = mask.sum(1)
        whole = self.training and bool(torch.rand(()) < WHOLE)
        for number, layer in enumerate(layers):
            last = number == len(layers) - 1
            queries = hidden[:, :1] if last else hidden
            context, received = self._attention(layer.attention, queries, hidden, mask)
            residual = queries
            if not last and not whole:
                kept, mask = self._kept(received, mask, lengths, self.schedule.kept[number])
                rows = kept[:, :, None].expand(-1, -1, hidden.shape[-1])
                context, residual = context.gather(1, rows), hidden.gather(1, rows)
            attended = layer.sa_layer_norm(layer.attention.out_lin(context) + residual)
            hidden = layer.output_layer_norm(layer.ffn(attended) + attended)
        first: torch.Tensor = hidden[:, 0]
        return first

    def _attention(
        self, attention: Any, queries: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixed values, ``(batch, queries, width)``, and the attention each token received, ``(batch, length)``."""
        heads = self.config.n_heads
        size = self.config.dim // heads

        def apart(states: torch.Tensor) -> torch.Tensor:
            return states.view(len(states), -1, heads, size).transpose(1, 2)

        # The scores are the largest tensors of a step, so this avoids every unnecessary pass over them.
        scores = apart(attention.q_lin(queries) * size**-0.5) @ apart(attention.k_lin(hidden)).transpose(2, 3)
        if not mask.all():
            scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
        shares = scores.softmax(-1, dtype=torch.float32)
        with torch.no_grad():
            # The queries of padding don't count. The last layer has one query, and its attention isn't used.
            counted = mask if queries.shape[1] == mask.shape[1] else mask[:, :1]
            received = (counted[:, None, None, :].to(shares.dtype) @ shares).sum((1, 2))
        shares = F.dropout(shares, self.config.attention_dropout, self.training)
        value = apart(attention.v_lin(hidden))
        mixed = shares.to(value.dtype) @ value
        return mixed.transpose(1, 2).reshape(len(hidden), -1, self.config.dim), received

    @staticmethod
    def _kept(
        received: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor, share: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The positions that stay, ``(batch, kept)``, ``[CLS]`` first, and whether each is a token and not padding."""
        # In fp32, as the edge graph counts.
        counts = torch.ceil(lengths.float() * torch.tensor(share, dtype=torch.float32, device=lengths.device)).long()
        counts = torch.minimum(torch.maximum(counts, lengths.clamp(max=AT_LEAST)), mask.sum(1))
        received = received.masked_fill(~mask, -1.0)
        received[:, 0] = float("inf")
        places = received.topk(int(counts.max()), dim=1).indices
        stays = torch.arange(places.shape[1], device=places.device) < counts[:, None]
        return places, stays
