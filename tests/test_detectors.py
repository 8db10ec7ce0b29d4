"""`scripts/anomalies.py`: its rows, metrics and tables."""

from conftest import script

anomalies = script("anomalies")


def line(name, **values):
    return {"protocol": "contaminated", "detector": "PCA", "set": name, **values}


def test_a_second_mean_leaves_out_the_sets_on_which_defaults_were_chosen():
    lines = [line("glass4", auroc=[0.5, 0.7]), line("page-blocks0", auroc=[0.1, 0.1]), line("yeast4", auroc=[0.7, 0.9])]
    text = anomalies.tables(lines)
    assert "| mean | 0.500 ± 0.094 |" in text  # 1.3 / 3 and 1.7 / 3
    assert "| mean without page-blocks0 | 0.700 ± 0.141 |" in text
    assert "without" not in anomalies.tables(lines[::2])
    assert "without" not in anomalies.tables(lines[1:2])
    assert len({*anomalies.IMBALANCED} - {*anomalies.CHOSEN}) == 8
