"""The examples of request bodies in OpenAPI. A test posts them."""

from typing import Any

WIKITEXT = {
    "source": "hub:Salesforce/wikitext",
    "config": "wikitext-2-raw-v1",
    "split": "test",
    "sequence_length": 2048,
}
C4 = {"source": "hub:allenai/c4", "config": "en", "samples": 128, "sequence_length": 2048}
REQUEST_EXAMPLES: dict[str, Any] = {
    "wanda_owl": {
        "summary": "Wanda, 70 % unstructured, sparser where there are fewer outliers",
        "value": {
            "spec": {
                "model": {"source": "hub:meta-llama/Llama-2-7b-hf"},
                "calibration": C4,
                "prune": {
                    "method": {"kind": "wanda"},
                    "allocation": {"kind": "owl", "multiplier": 5, "spread": 0.08},
                    "pattern": {"kind": "unstructured", "sparsity": 0.7},
                },
                "evaluation": {"perplexity": [WIKITEXT], "tasks": {"suite": "openba"}},
            },
            "resources": {"workers": 4, "gpus_per_worker": 1, "memory_per_worker": "48GiB"},
            "labels": {"team": "serving"},
            "name": "llama-7b-owl-70",
        },
    },
    "magnitude_2_4": {
        "summary": "Magnitude, 2:4, from a bucket, without calibration",
        "value": {
            "spec": {
                "model": {"source": "s3://checkpoints/nightly/llama-7b"},
                "prune": {
                    "method": {"kind": "magnitude"},
                    "pattern": {"kind": "nm", "keep": 2, "group": 4},
                },
            },
            "labels": {"schedule": "nightly"},
        },
    },
    "wanda_recovered": {
        "summary": "Wanda, 60 % unstructured, then trained back towards the dense model on 20 million tokens",
        "value": {
            "spec": {
                "model": {"source": "hub:meta-llama/Llama-2-7b-hf"},
                "calibration": C4,
                "prune": {
                    "method": {"kind": "wanda"},
                    "pattern": {"kind": "unstructured", "sparsity": 0.6},
                },
                "recovery": {
                    "text": {"source": "hub:allenai/c4", "config": "en", "sequence_length": 2048},
                    "objective": {"kind": "distillation", "lm_weight": 0.1, "top_k": 64},
                    "tokens": 20_000_000,
                    "global_batch_size": 64,
                    "learning_rate": {"kind": "cosine", "peak": 2e-5, "warmup_steps": 15},
                    "precision": "bfloat16",
                },
                "evaluation": {"perplexity": [WIKITEXT]},
            },
            "resources": {
                "workers": 4,
                "gpus_per_worker": 1,
                "memory_per_worker": "48GiB",
                "recovery": {
                    "zero_stage": 2,
                    "micro_batch_size": 2,
                    "gradient_checkpointing": True,
                    "teacher": "sharded",
                },
            },
            "name": "llama-7b-60-recovered",
        },
    },
}
SCHEDULE_EXAMPLES: dict[str, Any] = {
    "new_checkpoints": {
        "summary": "Every new checkpoint in a bucket, started at half past two at night, gated and promoted",
        "value": {
            "name": "nightly",
            "cron": {"expression": "30 2 * * *", "timezone": "Europe/Berlin"},
            "on_new_checkpoint": {"source": "s3://checkpoints/nightly", "ready_marker": "_SUCCESS"},
            "template": {
                "spec": {
                    "calibration": C4,
                    "prune": {
                        "method": {"kind": "wanda"},
                        "pattern": {"kind": "unstructured", "sparsity": 0.5},
                    },
                    "evaluation": {
                        "perplexity": [{**WIKITEXT, "name": "wikitext"}],
                        "tasks": {"tasks": ["arc_easy"]},
                    },
                },
                "resources": {"workers": 4, "gpus_per_worker": 1, "memory_per_worker": "48GiB"},
                "labels": {"team": "serving"},
            },
            "gates": ["perplexity.wikitext <= 1.2 * dense", "arc_easy >= dense - 0.02"],
            "alias": "nightly",
            "overlap": "queue",
        },
    },
    "every_sunday": {
        "summary": "One model, every Sunday, by cron alone",
        "value": {
            "name": "weekly",
            "cron": {"expression": "0 4 * * SUN", "timezone": "America/New_York"},
            "template": {
                "spec": {
                    "model": {"source": "hub:meta-llama/Llama-2-7b-hf@main"},
                    "prune": {
                        "method": {"kind": "magnitude"},
                        "pattern": {"kind": "nm", "keep": 2, "group": 4},
                    },
                },
            },
            "missed": "skip",
        },
    },
}
