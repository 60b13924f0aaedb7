"""What people decide, declared once: a field's docstring is its help in the command line, the form and the docs."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.text import Text, clean_line

Quant = Literal["bf16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_M", "Q2_K"]
"""A precision of a GGUF file, by llama.cpp's own names."""

QUANTS: tuple[Quant, ...] = ("bf16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_M", "Q2_K")

StageName = Literal["train", "merge", "gguf", "certify", "eval", "ollama"]
"""A stage over a run directory, by the name that the worker is started with."""

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Frozen(BaseModel):
    """A value: cannot change, refuses unknown keys, and takes each field's help from its docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def first_fault(error: ValidationError) -> str:
    """The first of pydantic's findings in one line, with the key that it is about, for a file that machines write."""
    detail = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in detail["loc"])
    return clean_line(f"{place}: {detail['msg']}" if place else detail["msg"])


class Architecture(Frozen):
    """The numbers of a model that memory and time follow from; the names are those of its `config.json`."""

    num_hidden_layers: Positive
    hidden_size: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    head_dim: Positive
    intermediate_size: Positive
    vocab_size: Positive
    tie_word_embeddings: bool
    attention_bias: bool = False
    """True if the projections of the attention, its output included, have a bias."""
    mlp_bias: bool = False
    """True if the projections of the MLP have a bias."""
    num_local_experts: Positive | None = None
    """Mixture of experts: how many MLPs a layer has; None: one, and no router."""
    num_experts_per_tok: Positive | None = None
    """Mixture of experts: how many of them a token goes through."""

    @model_validator(mode="after")
    def _experts_are_told_whole(self) -> Self:
        if (self.num_local_experts is None) != (self.num_experts_per_tok is None):
            raise ValueError("num_local_experts and num_experts_per_tok belong together")
        return self


class DatasetSpec(Frozen):
    """Which rows to learn from, and which to keep back."""

    path: str = ""
    """The file to learn from: JSON Lines, a JSON list, CSV, TSV, Parquet or plain text; or a Hugging Face data set."""
    format: str = "auto"
    """How a row is written; auto finds out. `finetui check --help` lists the formats."""
    columns: str = ""
    """Which columns hold what, for rows of no known format: `user=question, assistant=reply`."""
    subset: str = ""
    """The configuration of a Hugging Face data set; empty: its only one."""
    split: str = "train"
    """The split of a Hugging Face data set to learn from."""
    source: str = ""
    """Where a file that was made from a Hugging Face data set comes from: its id, commit, subset and split."""
    eval_path: str = ""
    """A separate file of held-out rows; empty: a share of the data is kept back."""
    eval_fraction: Share = 0.04
    """Share of the rows that is kept back when there is no separate file (at most 500 rows)."""
    stratify: Literal["none", "label"] = "none"
    """label: the rows kept back have the same share of each answer as the rest; for classification."""
    gold_path: str = ""
    """A file of 100 to 500 hand-checked rows that are never learned from; `finetui eval` scores them."""
    mix_path: str = ""
    """A file of general rows to mix in, so that the model does not forget what it could do."""
    mix_ratio: Share = 0.1
    """Share of the mixed-in rows among all rows to learn from; 0.1 to 0.2 is usual."""
    max_rows: int | None = Field(default=None, gt=0)
    """Use only the first so many rows, for a trial run."""


class LoraSpec(Frozen):
    """The adapter."""

    rank: Positive = 16
    """Rank of the adapter. 16 holds a few thousand rows; 64 and more for large data sets."""
    alpha: Positive = 32
    """Scale of the adapter, usually twice the rank."""
    dropout: Share = 0.0
    """Dropout inside the adapter. Above 0 it costs memory and time."""


class TrainSpec(Frozen):
    """How to train."""

    learning_rate: float = Field(default=2e-4, gt=0, lt=1)
    """Peak learning rate. LoRA wants about ten times that of full fine-tuning; 1e-4 for large models."""
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup_ratio: Share = 0.03
    """Share of the steps over which the learning rate rises to its peak."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decay of the adapter's weights at each step."""
    epochs: float = Field(default=3, gt=0, le=10_000)
    """How often each row is seen."""
    max_steps: int | None = Field(default=None, gt=0, le=100_000_000)
    """Stop after so many optimizer steps, whatever the epochs say."""
    max_length: int = Field(default=2048, ge=16)
    """Longest row in tokens; what is longer is cut, and counted."""
    micro_batch_size: Positive = 1
    """Rows in one forward pass. Costs memory; does not change what is learned."""
    gradient_accumulation_steps: Positive = 16
    """Forward passes to one optimizer step; times the micro-batch this is the effective batch."""
    quantization: Literal["nf4", "none"] = "nf4"
    """nf4: the base in 4 bits (QLoRA); none: in 16 bits (LoRA)."""
    gradient_checkpointing: bool = True
    """Compute activations twice instead of keeping them: less memory, up to a third slower."""
    gradient_checkpointing_every: Positive = 1
    """Compute only every so many layers twice: 1 is all of them; 2 is half, which is faster and takes more memory."""
    gradient_checkpointing_offload: bool = False
    """Keep the checkpoints in the machine's memory instead of the GPU's: room for long rows, a little slower."""
    optimizer: Literal["adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = "adamw_torch_fused"
    """The optimizer, by transformers' name."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    eval_steps: Positive = 100
    """Measure the held-out loss every so many steps."""
    save_steps: Positive = 100
    """Write a checkpoint every so many steps."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many of the newest checkpoints to keep."""
    score_rows: int = Field(default=64, ge=0)
    """Held-out rows to answer before and after training, for exact match (0: none)."""
    seed: int = Field(default=3407, ge=0, lt=2**32)
    """Seed of the order of rows and of the adapter's start."""


class ExportSpec(Frozen):
    """What to make of the trained adapter."""

    quants: tuple[Quant, ...] = Field(default=("Q4_K_M",), min_length=1)
    """GGUF files to make, beside the bf16 one that they are certified against."""


class Preset(Frozen):
    """A model with settings that are known to work for it."""

    name: Text
    """The name it is called by."""
    title: Text
    """The model's full name."""
    model: str
    """A Hugging Face id, or a folder (`./…` is beside the preset's file)."""
    revision: str = "main"
    """The hub's revision."""
    family: str
    """A family of engine/families.py."""
    parameters: Positive
    """How many weights the model has."""
    download_bytes: Positive
    """Size of its 16-bit weights on disk."""
    context_length: Positive
    """Longest text that the model was made for, in tokens."""
    licence: Text
    """The licence's name."""
    licence_note: Text = ""
    """A plain sentence on commercial use."""
    gated: bool = False
    """True if the hub wants an accepted licence before it gives the files."""
    good_at: Text = ""
    """What people take it for."""
    architecture: Architecture
    lora: LoraSpec = LoraSpec()
    train: TrainSpec = TrainSpec()
    export: ExportSpec = ExportSpec()
    data: DatasetSpec = DatasetSpec()
    """A data set that comes with the preset; only the demo has one."""
    question: Text = ""
    """A question to try the tuned model with; only the demo has one."""


class StageOptions(Frozen):
    """What one start of the worker may decide anew; everything else stands in the plan."""

    resume: bool = False
    """train: continue from the newest valid checkpoint."""
    quants: tuple[Quant, ...] | None = None
    """gguf, certify: these files instead of the plan's."""
    name: str | None = None
    """ollama: the name to create."""
    replace: bool = False
    """ollama: take a name that exists."""
    uncertified: bool = False
    """ollama: go ahead with a file that has no certificate, or whose certificate failed."""
    data: str | None = None
    """eval: this file of rows instead of the held-out ones."""
