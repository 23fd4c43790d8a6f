"""The corpus in a recipe: its tokenizer, its subsets and where their text comes from."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from k2.recipe.part import Count, Fraction, Name, Part, no_repeats

TOKENS_LIMIT = 65_536  # token ids are stored as uint16


class TrainedTokenizer(Part):
    """A sentencepiece BPE tokenizer trained on the recipe's own corpus, with LLaMA's settings."""

    kind: Literal["train"] = "train"
    pieces: Annotated[int, Field(ge=300, le=TOKENS_LIMIT)] = Field(description="sentencepiece pieces, before the code tokens")
    train_bytes: Count = Field(default=2_000_000, description="how much of the corpus the trainer reads")


class FileTokenizer(Part):
    """A sentencepiece model that the user brings, such as LLaMA's. `path` is relative to the place's data folder."""

    kind: Literal["file"] = "file"
    path: str
    pieces: Annotated[int, Field(ge=300, le=TOKENS_LIMIT)]


Tokenizer = Annotated[TrainedTokenizer | FileTokenizer, Field(discriminator="kind")]


class PythonSource(Part):
    """Real text that any machine with Python holds: gathered from the installation that runs k2."""

    kind: Literal["python"] = "python"
    part: Literal["code", "reference", "docstrings", "licences", "metadata"]


class FilesSource(Part):
    """Files of the place's data folder, of a bucket or of the Hub.

    By their names: `.jsonl` (also `.gz`, `.zst`) and `.parquet` hold many documents, any other file is one.
    """

    kind: Literal["files"] = "files"
    pattern: str = Field(description="glob: relative to the place's data folder, or s3://bucket/..., or hf://datasets/owner/name/...")
    text_field: str = Field(default="text", description="the member that holds the text; `a.b` is the member b of the member a")
    max_document_bytes: Count = Field(
        default=16 << 20, description="a longer line or file is dropped and counted, and never held in memory"
    )


Source = Annotated[PythonSource | FilesSource, Field(discriminator="kind")]


class Subset(Part):
    """One source of the mix. `max_bytes` caps the text taken from it, in document order."""

    name: Name
    source: Source
    domain: str = Field(description="what kind of text it is: web, code, law, reference ...")
    code: bool = Field(default=False, description="code may become fill-in-the-middle")
    max_bytes: Count | None = None
    duplicates: Literal["keep", "drop"] = Field(
        default="keep", description="of a text that occurs twice in the subset, the first alone is taken"
    )
    repetitions: Literal["keep", "drop"] = Field(
        default="keep", description="a document in which 1 to 13 tokens stand 32 times in a row (OLMo 2: such precede spikes) is left out"
    )


class FillInTheMiddle(Part):
    """K2 §1.2: each code document becomes FIM with probability `rate`, and then SPM with probability `spm_rate`."""

    rate: Fraction = 0.5
    spm_rate: Fraction = 0.5


class Data(Part):
    subsets: tuple[Subset, ...]
    fill_in_the_middle: FillInTheMiddle = FillInTheMiddle()
    held_out: Fraction = Field(default=0.0, description="share of the documents kept from training, for evaluation")
    shard_bytes: Count = Field(
        default=256_000_000, description="sources are cut into shards of so many bytes: the unit of work and of retry"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        no_repeats("data.subsets", [s.name for s in self.subsets])
        return self
