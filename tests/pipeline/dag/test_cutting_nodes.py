"""What a cut adds to a job: sizes and vocabularies are cut before masks and training."""

from tests.pipeline.dag.made_dags import DISTILLED, LAST, MODELLED, PRUNED, check, ids, inputs, keys, planned


def test_a_cut_comes_before_masks_and_training() -> None:
    graph = planned(
        structure={"intermediate_size": 96, "drop_blocks": {"kind": "spaced", "num_blocks": 2}},
        **PRUNED,
        recovery=DISTILLED,
    )
    check(graph)
    order = ids(graph)
    assert order.index("measure_structure") < order.index("slice") < order.index("prune")
    dense, cut = ("import_model", "checkpoint"), ("slice", "checkpoint")

    def taken(node: str, name: str = "checkpoint") -> tuple[str, str]:
        one = graph[node].inputs[name]
        return one.node, one.artifact

    assert taken("slice") == taken("measure_structure") == dense
    assert taken("prune") == taken("allocate") == taken("measure_statistics") == cut
    assert taken("recover", "teacher") == dense
    assert taken("evaluate:pruned") == ("prune", "checkpoint")
    alone = planned(structure={"intermediate_size": 96, "criterion": {"kind": "magnitude"}})
    assert "measure_structure" not in ids(alone)
    assert alone["evaluate:pruned"].inputs["checkpoint"].node == "slice"
    assert alone["publish"].inputs["checkpoint"].node == "slice"


def test_blocks_are_fitted_to_those_that_were_cut() -> None:
    graph = planned(
        structure={"intermediate_size": 96, "criterion": {"kind": "random"}},
        **PRUNED,
        recovery={**MODELLED, "trains": {"kind": "reconstruction"}},
    )
    assert graph["recover"].inputs["teacher"].node == "slice"


CORPUS = {"source": "file:/t/text.txt"}
VOCABULARY = {"size": 64, "texts": [CORPUS], "held_out": CORPUS}


def test_a_vocabulary_is_cut_before_all_else_and_its_model_reads_teaches_and_is_cut() -> None:
    cut = {"vocabulary": VOCABULARY, "hidden_size": 32}
    dag = planned(**PRUNED, structure=cut, recovery=DISTILLED)
    check(dag)
    assert inputs(dag, "count_tokens") == {"checkpoint": "import_model.checkpoint"}
    assert inputs(dag, "cut_vocabulary") == {
        "checkpoint": "import_model.checkpoint",
        "counts": "count_tokens.counts",
    }
    for node in ("calibrate", "prepare_text", "measure_structure", "slice"):
        assert inputs(dag, node)["checkpoint"] == "cut_vocabulary.checkpoint", node
    for node in ("measure_statistics", "prune"):
        assert inputs(dag, node)["checkpoint"] == "slice.checkpoint", node
    assert inputs(dag, "recover")["teacher"] == "cut_vocabulary.checkpoint"
    assert inputs(dag, "evaluate:dense")["checkpoint"] == "import_model.checkpoint"
    for node in ("publish", "report"):
        assert inputs(dag, node)["vocabulary"] == "cut_vocabulary.vocabulary"
        assert inputs(dag, node)["cut"] == "slice.cut"


def test_a_vocabulary_alone_needs_no_slice() -> None:
    dag = planned(structure={"vocabulary": VOCABULARY})
    check(dag)
    assert ids(dag) == [
        "import_model",
        "count_tokens",
        "cut_vocabulary",
        "evaluate:dense",
        "evaluate:pruned",
        *LAST,
    ]
    assert inputs(dag, "publish")["checkpoint"] == "cut_vocabulary.checkpoint"
    assert "cut" not in inputs(dag, "publish")


def test_another_size_of_vocabulary_shares_the_counts() -> None:
    one, other = (keys(planned(structure={"vocabulary": {**VOCABULARY, "size": size}})) for size in (64, 128))
    assert one["count_tokens"] == other["count_tokens"]
    assert one["cut_vocabulary"] != other["cut_vocabulary"]
