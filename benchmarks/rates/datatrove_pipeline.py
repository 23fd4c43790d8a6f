"""datatrove's tokenization pipeline, run by the Python of its own environment.

    python datatrove_pipeline.py TOKENIZER_JSON WORKERS OUT FOLDER TASKS

Prints `{"tokens": ..., "documents": ...}`.
"""

import json
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer


def main(tokenizer: str, workers: str, out: str, folder: str, tasks: str) -> None:
    executor = LocalPipelineExecutor(
        pipeline=[
            JsonlReader(folder, glob_pattern="*.jsonl"),
            DocumentTokenizer(
                output_folder=f"{out}/tokens", local_working_dir=f"{out}/work", tokenizer_name_or_path=tokenizer, eos_token="</s>",
                shuffle_documents=False,
            ),
        ],
        tasks=int(tasks),
        workers=int(workers),
        logging_dir=f"{out}/logs",
        skip_completed=False,
        start_method="fork",  # the cheapest, and children whose time can be counted: its fork server's are nobody's
    )  # fmt: skip
    executor.run()
    tokens = sum(path.stat().st_size for path in Path(out, "tokens").glob("*.ds")) // 2
    documents = sum(path.stat().st_size for path in Path(out, "tokens").glob("*.ds.index")) // 8
    print(json.dumps({"tokens": tokens, "documents": documents}))


if __name__ == "__main__":
    main(*sys.argv[1:])
