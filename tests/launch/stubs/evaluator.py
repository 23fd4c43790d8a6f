"""An evaluator that says it is ready, and answers, dies or falls silent as the checkpoint's name demands."""

import json
import os
import sys
import time
from pathlib import Path

lives = Path(sys.argv[1])
lives.write_text(lives.read_text() + "x" if lives.exists() else "x")
print("a library says hello", flush=True)
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    print(f"{asked['duty']}...", flush=True)
    match asked["checkpoint"]:
        case "ckpt_dies_once" if lives.read_text() == "x":
            os._exit(3)
        case "ckpt_dies":
            os._exit(3)
        case "ckpt_silent":
            time.sleep(600)
        case "ckpt_broken":
            print(json.dumps({"id": asked["id"], "ok": False, "error": "it has no receipt", "permanent": True}), flush=True)
        case _:
            print(json.dumps({"id": asked["id"], "ok": True, "receipt": asked["checkpoint"], "pid": os.getpid()}), flush=True)
