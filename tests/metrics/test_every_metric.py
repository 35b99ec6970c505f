"""What every metric has to fulfil, checked for each YAML of `conf/metric`."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor, distributed
from torchmetrics import Metric, MetricCollection

from emorec.batch import IGNORED
from emorec.metrics.classification import confusion_matrix
from emorec.metrics.probabilities import ProbabilityMetric
from tests.conftest import REPOSITORY, run_ranks

NAMES = sorted(path.stem for path in (REPOSITORY / "conf" / "metric").glob("*.yaml"))
CLASSES = 4
NAN = float("nan")
KINDS = ("classification", "regression")
Example = tuple[Tensor, Tensor]  # predictions and targets
TIMEOUT = timedelta(minutes=10)  # also for a machine that is much slower


def make(name: str) -> Any:
    node = OmegaConf.load(REPOSITORY / "conf" / "metric" / f"{name}.yaml")[name]
    metric_class: Any = get_class(node["_target_"])
    settings = {key: value for key, value in node.items() if key != "_target_"}
    if metric_class.kind == "classification":
        settings["num_classes"] = CLASSES
    return metric_class(**settings)


def collection(kind: str) -> MetricCollection:
    return MetricCollection({name: metric for name in NAMES if (metric := make(name)).kind == kind})


def example(kind: str, count: int = 50, *, known: bool = True) -> Example:
    """Predictions and targets: about every fifth target is unknown, the third class is among the predictions only."""
    generator = torch.Generator().manual_seed(count)
    unknown = torch.rand(count, generator=generator) < (0.2 if known else 2)
    if kind == "classification":
        target = torch.tensor([0, 1, 3])[torch.randint(3, (count,), generator=generator)]
        return torch.randn(count, CLASSES, generator=generator), target.masked_fill(unknown, IGNORED)
    target = torch.randn(count, generator=generator)
    predicted = 0.5 * target[:, None] + torch.randn(count, 1, generator=generator)  # (N, 1)
    return predicted, target.masked_fill(unknown, NAN)


def functional(metric: Any, predicted: Tensor, target: Tensor) -> Tensor:
    """The value of the functional core."""
    if isinstance(metric, ProbabilityMetric):
        value = metric.of(target, predicted)
    elif metric.kind == "classification":
        value = metric.score(confusion_matrix(target, predicted, CLASSES))
    else:
        value = metric.score(target, predicted)
    assert isinstance(value, Tensor)
    return value


def evaluate(metric: Any, *batches: Example) -> Tensor:
    metric.reset()
    for predicted, target in batches:
        metric.update(predicted, target)
    value = metric.compute()
    assert isinstance(value, Tensor)
    return value


def assert_close(actual: Tensor, expected: Tensor) -> None:
    # the order of utterances changes the last bits of a sum
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def metric(name: str) -> Any:
    return make(name)


@pytest.fixture
def data(metric: Any) -> Example:
    return example(metric.kind)


def test_there_are_metrics_of_each_kind() -> None:
    assert all(len(collection(kind)) for kind in KINDS)


def test_a_yaml_holds_one_metric_under_its_own_name(name: str) -> None:
    path = REPOSITORY / "conf" / "metric" / f"{name}.yaml"
    assert list(OmegaConf.load(path)) == [name]
    assert path.read_text().startswith("# ")


def test_a_metric_says_its_kind_and_its_direction(metric: Any) -> None:
    assert isinstance(metric, Metric)
    assert metric.kind in KINDS
    assert isinstance(metric.higher_is_better, bool)


def test_the_value_is_a_finite_scalar_of_the_functional_core(metric: Any, data: Example) -> None:
    value = evaluate(metric, data)
    assert value.shape == ()
    assert value.dtype == torch.float64
    assert value.isfinite()
    assert torch.equal(value, functional(metric, *data))


def test_a_better_prediction_scores_better(metric: Any, data: Example) -> None:
    target = data[1]
    if metric.kind == "classification":
        perfect = 100 * torch.nn.functional.one_hot(target.clamp_min(0), CLASSES).float()
    else:
        perfect = target.nan_to_num()
    best, worse = evaluate(metric, (perfect, target)), evaluate(metric, data)
    assert (best > worse) == metric.higher_is_better
    assert float(best) == pytest.approx(1 if metric.higher_is_better else 0)


def test_batches_do_not_matter(metric: Any, data: Example) -> None:
    predicted, target = data
    batches = list(zip(predicted.split(7), target.split(7), strict=True))
    assert_close(evaluate(metric, *batches), evaluate(metric, data))


def test_the_order_of_utterances_does_not_matter(metric: Any, data: Example) -> None:
    order = torch.randperm(len(data[1]), generator=torch.Generator().manual_seed(0))
    assert_close(evaluate(metric, (data[0][order], data[1][order])), evaluate(metric, data))


def test_the_call_gives_the_value_of_the_batch_and_adds_it(metric: Any, data: Example) -> None:
    first, second = data, example(metric.kind, 20)
    metric(*first)
    assert_close(metric(*second), functional(metric, *second))
    assert_close(metric.compute(), evaluate(make_like(metric), first, second))


def make_like(metric: Any) -> Any:
    clone = metric.clone()
    clone.reset()
    return clone


def test_reset_forgets_what_was_counted(metric: Any, data: Example) -> None:
    metric.update(*example(metric.kind, 20))
    metric.compute()
    metric.reset()
    metric.update(*data)
    assert torch.equal(metric.compute(), functional(metric, *data))


def test_a_metric_goes_on_outside_of_inference_mode(metric: Any, data: Example) -> None:
    with torch.inference_mode():
        evaluate(metric, data)
        metric.reset()
    assert torch.equal(evaluate(metric, data), functional(metric, *data))


def test_utterances_without_a_target_do_not_count(metric: Any, data: Example) -> None:
    predicted, target = data
    known = ~target.isnan() & (target != IGNORED)
    assert not known.all()
    expected = evaluate(metric, (predicted[known], target[known]))
    unknown = torch.where(known[:, None], predicted, NAN)  # what is predicted for them does not matter either
    assert torch.equal(evaluate(metric, (unknown, target)), expected)


@pytest.mark.parametrize("count", [0, 5])
def test_without_any_target_classification_scores_0_and_regression_nan(metric: Any, count: int) -> None:
    value = evaluate(metric, example(metric.kind, count, known=False))
    assert_close(value, torch.tensor(0.0 if metric.kind == "classification" else NAN, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_without_any_update_the_value_is_that_of_no_utterances(metric: Any) -> None:
    expected = evaluate(make_like(metric), example(metric.kind, 0))
    assert_close(metric.compute(), expected)


def test_a_batch_without_any_target_changes_nothing(metric: Any, data: Example) -> None:
    empty = example(metric.kind, 5, known=False)
    assert torch.equal(evaluate(metric, empty, data, empty), evaluate(metric, data))


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_a_prediction_that_is_not_finite_gives_nan(metric: Any, data: Example, value: float) -> None:
    broken = with_prediction(data, value)
    assert evaluate(metric, broken).isnan()
    assert evaluate(metric, broken, data).isnan()
    assert evaluate(metric, data, broken).isnan()
    assert functional(metric, *broken).isnan()
    assert evaluate(metric, data).isfinite()


def with_prediction(data: Example, value: float) -> Example:
    """The data with `value` as one of the predictions for a known target."""
    predicted, target = data[0].clone(), data[1]
    row = int((~target.isnan() & (target != IGNORED)).nonzero()[0])
    predicted[row, 0] = value
    return predicted, target


def test_half_precision_predictions_are_taken(metric: Any, data: Example) -> None:
    narrow = data[0].bfloat16()
    assert torch.equal(evaluate(metric, (narrow, data[1])), evaluate(metric, (narrow.float(), data[1])))


def test_states_are_no_part_of_the_stored_weights(metric: Any, data: Example) -> None:
    metric.update(*data)
    assert not metric.state_dict()
    assert not list(metric.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_collection_counts_once_for_all_its_metrics(kind: str) -> None:
    metrics, batches = collection(kind), [example(kind, count) for count in (10, 20, 30)]
    for batch in batches:
        metrics.update(*batch)
    assert len(metrics.compute_groups) == {"classification": 2, "regression": 1}[kind]  # counts, and probabilities
    expected = {name: evaluate(make(name), *batches) for name in metrics}
    for name, value in metrics.compute().items():
        assert torch.equal(value, expected[name]), name
    metrics.reset()
    metrics.update(*batches[0])
    for name, value in metrics.compute().items():
        assert torch.equal(value, evaluate(make(name), batches[0])), name


Batches = tuple[list[Example], list[Example]]  # of each of two ranks


def cases(kind: str) -> dict[str, Batches]:
    """{case: the batches of each rank}."""
    whole, rest, unknown = example(kind, 41), example(kind, 17), example(kind, 5, known=False)
    return {
        "unequal shares": ([whole, rest], [example(kind, 8)]),
        "no update on the first rank": ([], [whole, rest]),
        "no update on the second rank": ([whole, rest], []),
        "no target on the first rank": ([unknown], [whole]),
        "no target at all": ([unknown], [unknown, unknown]),
        "not finite on the second rank": ([whole], [rest, with_prediction(whole, NAN)]),
    }


def run_rank(rank: int, folder: str) -> None:
    """Computes all cases on one of two ranks and saves the values."""
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2, timeout=TIMEOUT)
    values: dict[tuple[str, str], dict[str, Tensor]] = {}
    for kind in KINDS:
        for case, batches in cases(kind).items():
            metrics = collection(kind)
            for batch in batches[rank]:
                metrics.update(*batch)
            values[kind, case] = metrics.compute()
            assert all(metric.compute() is not None for metric in metrics.values())
    distributed.barrier()
    torch.save(values, Path(folder) / f"rank_{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def values_of_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(run_rank, str(folder))
    return [torch.load(folder / f"rank_{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", cases("regression"))
@pytest.mark.slow
def test_two_ranks_give_the_value_of_one(
    values_of_two_ranks: list[dict[tuple[str, str], dict[str, Tensor]]], kind: str, case: str
) -> None:
    first, second = cases(kind)[case]
    for name in collection(kind):
        expected = evaluate(make(name), *first, *second)
        for values in values_of_two_ranks:
            assert_close(values[kind, case][name], expected)
