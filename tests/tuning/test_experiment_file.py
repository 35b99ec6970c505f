"""The text of the experiment that a search writes."""

from omegaconf import OmegaConf

from emorec.tuning.experiment_file import _text


def test_several_losses_are_composed_before_what_overrides() -> None:
    text = _text({"loss": "cross_entropy+supcon", "fusion": "gated"}, {("batch_size",): 8})
    assert OmegaConf.to_container(OmegaConf.create(text)) == {
        "defaults": [
            {"/loss@loss.cross_entropy": "cross_entropy"},
            {"/loss@loss.supcon": "supcon"},
            {"override /fusion": "gated"},
            {"override /loss": "several"},
        ],
        "batch_size": 8,
    }


def test_one_loss_is_a_choice_and_nothing_chosen_needs_no_defaults() -> None:
    assert OmegaConf.to_container(OmegaConf.create(_text({"loss": "focal"}, {}))) == {
        "defaults": [{"override /loss": "focal"}]
    }
    assert OmegaConf.to_container(OmegaConf.create(_text({}, {("seed",): 1}))) == {"seed": 1}
