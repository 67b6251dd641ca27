"""Examples in OpenAPI. A test posts them."""

from typing import Any

WIKITEXT = {
    "source": "hub:Salesforce/wikitext",
    "config": "wikitext-2-raw-v1",
    "split": "test",
    "sequence_length": 2048,
}
REQUEST_EXAMPLES: dict[str, Any] = {
    "wanda_owl": {
        "summary": "Wanda, 70 % unstructured, sparser where there are fewer outliers",
        "value": {
            "spec": {
                "model": {"source": "hub:meta-llama/Llama-2-7b-hf"},
                "calibration": {
                    "source": "hub:allenai/c4",
                    "config": "en",
                    "samples": 128,
                    "sequence_length": 2048,
                },
                "prune": {
                    "method": {"kind": "wanda"},
                    "allocation": {"kind": "owl", "multiplier": 5, "spread": 0.08},
                    "pattern": {"kind": "unstructured", "sparsity": 0.7},
                },
                "evaluation": {"perplexity": [WIKITEXT]},
            },
            "resources": {"workers": 4, "gpus_per_worker": 1, "memory_per_worker": "64GiB"},
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
}
