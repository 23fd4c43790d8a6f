"""A mirror of the 21 rows' data sets in miniature: made-up rows, each in its data set's own schema, laid out as a download lays it.

The expected schemas are the published data sets'. Every question is about the same small facts, so that nothing of a real test is here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
_MMLU = """abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
college_computer_science college_mathematics college_medicine college_physics computer_security conceptual_physics econometrics
electrical_engineering elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry
high_school_computer_science high_school_european_history high_school_geography high_school_government_and_politics
high_school_macroeconomics high_school_mathematics high_school_microeconomics high_school_physics high_school_psychology
high_school_statistics high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence
logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes moral_scenarios nutrition
philosophy prehistory professional_accounting professional_law professional_medicine professional_psychology public_relations
security_studies sociology us_foreign_policy virology world_religions"""
_BBH = """boolean_expressions causal_judgement date_understanding disambiguation_qa dyck_languages formal_fallacies geometric_shapes
hyperbaton logical_deduction_five_objects logical_deduction_seven_objects logical_deduction_three_objects movie_recommendation
multistep_arithmetic_two navigate object_counting penguins_in_a_table reasoning_about_colored_objects ruin_names
salient_translation_error_detection snarks sports_understanding temporal_sequences tracking_shuffled_objects_five_objects
tracking_shuffled_objects_seven_objects tracking_shuffled_objects_three_objects web_of_lies word_sorting"""
MMLU_CONFIGS, BBH_CONFIGS = tuple(_MMLU.split()), tuple(_BBH.split())
COLOURS = ("red", "green", "blue", "grey")


def lay_mirror(root: Path) -> Path:
    """Write every data set below `root`; give it back."""
    for name, configs in _data_sets():
        folder = root / name
        described = []
        for config, splits in configs.items():
            described.append({"config_name": config, "data_files": [{"split": s, "path": f"{config}/{s}.jsonl"} for s in splits]})
            for split, rows in splits.items():
                path = folder / config / f"{split}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "README.md").write_text("---\nconfigs: " + json.dumps(described) + "\n---\nMade-up rows.\n")
    return root


def _data_sets() -> Iterator[tuple[str, dict[str, dict[str, Rows]]]]:
    yield "cais/mmlu", {config: {"test": [_mmlu(config)], "dev": [_mmlu(config)]} for config in MMLU_CONFIGS}
    yield "EleutherAI/race", {"high": {"test": _some(_race)}}
    yield "Rowan/hellaswag", {"default": _splits(_hellaswag, "train", "validation")}
    yield "baber/piqa", {"default": _splits(_piqa, "train", "validation")}
    yield "allenai/ai2_arc", {name: _splits(_arc, "train", "validation", "test") for name in ("ARC-Easy", "ARC-Challenge")}
    yield "allenai/openbookqa", {"main": _splits(_openbookqa, "train", "validation", "test")}
    yield "allenai/winogrande", {"winogrande_xl": _splits(_winogrande, "train", "validation")}
    yield "truthfulqa/truthful_qa", {"multiple_choice": {"validation": _some(_truthfulqa)}}
    yield "jannalu/crows_pairs_multilingual", {"english": {"test": _some(_crows_pairs)}}
    yield "openai/gsm8k", {"main": _splits(_gsm8k, "train", "test")}
    yield "regisss/math_qa", {"default": _splits(_mathqa, "train", "validation", "test")}
    yield "baber/logiqa2", {"logiqa2": _splits(_logiqa2, "train", "validation", "test")}
    yield "SaylorTwift/bbh", {config: {"test": [_bbh(config)]} for config in BBH_CONFIGS}
    yield "openai/openai_humaneval", {"openai_humaneval": {"test": _some(_humaneval, 2)}}
    yield "google-research-datasets/mbpp", {"full": _splits(_mbpp, "train", "test", count=2)}
    yield "GBaker/MedQA-USMLE-4-options-hf", {"default": _splits(_medqa, "train", "validation", "test")}
    yield "openlifescienceai/medmcqa", {"default": _splits(_medmcqa, "train", "validation")}
    yield "bigbio/pubmed_qa", {"pubmed_qa_labeled_fold0_source": _splits(_pubmedqa, "train", "validation", "test")}


def _some(make: Any, count: int = 3, start: int = 0) -> Rows:
    return [make(start + i) for i in range(count)]


def _splits(make: Any, *names: str, count: int = 3) -> dict[str, Rows]:
    """Different rows in each; the first, from which examples are drawn, has more than the most shots."""
    return {name: _some(make, 30 if name == "train" else count, 100 * i) for i, name in enumerate(names)}


def _mmlu(config: str) -> dict[str, Any]:
    return {
        "question": f" Which of these is a colour of {config}? ",
        "subject": config,
        "choices": list(COLOURS),
        "answer": len(config) % 4,
    }


def _bbh(config: str) -> dict[str, Any]:
    if config == "word_sorting":
        return {"input": "Sort the following words alphabetically: List: oak ash", "target": "ash oak"}
    return {"input": "Which colour has the sky?\nOptions:\n(A) red\n(B) green\n(C) blue", "target": "(C)"}


def _race(i: int) -> dict[str, Any]:
    problems = [{"question": f"The sky in story {i} is  _  .", "answer": "C", "options": list(COLOURS)}]
    problems += [{"question": "What is grass?", "answer": "B", "options": list(COLOURS)}]
    return {"article": "The sky was blue.", "problems": str(problems)}


def _hellaswag(i: int) -> dict[str, Any]:
    return {
        "ind": i, "activity_label": "Painting", "ctx_a": f"A woman opens pot {i}.", "ctx_b": "she", "ctx": f"A woman opens pot {i}. She",
        "endings": [f"paints the wall {c}. [title] Then rests." for c in COLOURS], "source_id": f"made~{i}", "split": "train",
        "split_type": "indomain", "label": str(i % 4),
    }  # fmt: skip


def _piqa(i: int) -> dict[str, Any]:
    return {"goal": f"Dry wall {i}", "sol1": "Open the window.", "sol2": "Pour water on it.", "label": i % 2}


def _arc(i: int) -> dict[str, Any]:
    return {
        "id": f"made_{i}", "question": f"Which colour has leaf {i}?", "choices": {"text": list(COLOURS), "label": ["A", "B", "C", "D"]},
        "answerKey": "ABCD"[i % 4],
    }  # fmt: skip


def _openbookqa(i: int) -> dict[str, Any]:
    row = _arc(i)
    return {"id": row["id"], "question_stem": f"A leaf {i} is", "choices": row["choices"], "answerKey": row["answerKey"]}


def _winogrande(i: int) -> dict[str, Any]:
    return {
        "sentence": f"The wall {i} was dry and the cloth was wet, so she hung up the _ outside.", "option1": "wall", "option2": "cloth",
        "answer": str(1 + i % 2),
    }  # fmt: skip


def _truthfulqa(i: int) -> dict[str, Any]:
    return {
        "question": f"What colour is the sky at noon {i}?",
        "mc1_targets": {"choices": ["Blue.", "Red."], "labels": [1, 0]},
        "mc2_targets": {"choices": ["Blue.", "It is blue.", "Red."], "labels": [1, 1, 0]},
    }


def _crows_pairs(i: int) -> dict[str, Any]:
    return {
        "id": i, "sent_more": f"Painter {i} was late.", "sent_less": f"Baker {i} was late.",
        "stereo_antistereo": "stereo", "bias_type": "age",
    }  # fmt: skip


def _gsm8k(i: int) -> dict[str, Any]:
    return {"question": f"She has {i} pots and buys 2. How many?", "answer": f"{i} + 2 = <<{i}+2={i + 2}>>{i + 2}\n#### {i + 2}"}


def _mathqa(i: int) -> dict[str, Any]:
    options = " , ".join(f"{letter} ) {i + n}" for n, letter in enumerate("abcde"))
    return {
        "Problem": f"what is {i} plus 2 ?", "Rationale": "add", "options": options, "correct": "c", "annotated_formula": f"add({i}, 2)",
        "linear_formula": f"add({i},2)", "category": "general",
    }  # fmt: skip


def _logiqa2(i: int) -> dict[str, Any]:
    return {
        "id": i, "answer": i % 4, "text": f"All {i} walls are dry.", "type": "{}", "question": "Which follows?", "options": list(COLOURS),
    }  # fmt: skip


def _humaneval(i: int) -> dict[str, Any]:
    return {
        "task_id": f"Made/{i}", "prompt": f'def plus(x):\n    """Return x plus {i}."""\n', "canonical_solution": f"    return x + {i}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {i + 1}\n", "entry_point": "plus",
    }  # fmt: skip


def _mbpp(i: int) -> dict[str, Any]:
    return {
        "task_id": i, "text": f"Write a function that adds {i}.", "code": f"def plus(x):\r\n  return x + {i}", "test_setup_code": "",
        "test_list": [f"assert plus({n}) == {n + i}" for n in range(3)], "challenge_test_list": [],
    }  # fmt: skip


def _medqa(i: int) -> dict[str, Any]:
    endings = {f"ending{n}": colour for n, colour in enumerate(COLOURS)}
    return {"id": f"made-{i}", "sent1": f"Which colour is pill {i}?", "sent2": "", **endings, "label": i % 4}


def _medmcqa(i: int) -> dict[str, Any]:
    options = {f"op{letter}": colour for letter, colour in zip("abcd", COLOURS, strict=True)}
    return {
        "id": f"made-{i}", "question": f"Which colour is pill {i}?", **options, "cop": i % 4, "choice_type": "single", "exp": "made up",
        "subject_name": "Colours", "topic_name": None,
    }  # fmt: skip


def _pubmedqa(i: int) -> dict[str, Any]:
    return {
        "QUESTION": f"Is pill {i} red?", "CONTEXTS": ["Pills were looked at.", "They were red."], "LABELS": ["BACKGROUND", "RESULTS"],
        "MESHES": ["Colour"], "YEAR": "2020", "reasoning_required_pred": "yes", "reasoning_free_pred": "yes",
        "final_decision": ("yes", "no", "maybe")[i % 3], "LONG_ANSWER": "It is.",
    }  # fmt: skip
