from detpretrain.report.cost import JobCost, cost_table, of_record


def test_hours_and_memory_by_hand():
    jobs = [
        JobCost("prediction", "net", "mae", "cuda:0", 0.5, 2048),
        JobCost("fine-tuning", "net", "mae", "cuda:0", 10.0, 4096),
        JobCost("fine-tuning", "net", "mae", "cuda:1", 14.0, 8192),
        JobCost("fine-tuning", "net", "scratch", "cpu", 3.0, None),
        JobCost("pre-training", "resenc", "mae", None, None, None),
    ]
    lines = cost_table(jobs).to_numpy().tolist()
    assert lines == [
        ["pre-training", "resenc", "mae", "1", "not recorded", "–", "–", "–"],
        ["fine-tuning", "net", "mae", "2", "GPU", "12", "24", "8.00 GiB"],
        ["fine-tuning", "net", "scratch", "1", "CPU", "3", "3", "–"],
        ["prediction", "net", "mae", "1", "GPU", "0.5", "0.5", "2.00 GiB"],
        ["all", "", "", "1", "CPU", "", "3", "–"],
        ["all", "", "", "3", "GPU", "", "24.5", "8.00 GiB"],
        ["all", "", "", "1", "not recorded", "", "–", "–"],
    ]


def test_a_record_without_memory_or_time():
    assert of_record("prediction", "net", "mae", {}) == JobCost("prediction", "net", "mae", None, None, None)
    found = of_record("fine-tuning", "net", "mae", {"seconds": 5, "device": "cpu", "peak_memory_mib": 700}, 7200)
    assert found == JobCost("fine-tuning", "net", "mae", "cpu", 2.0, 700)
    missing = [found, JobCost("fine-tuning", "net", "mae", "cpu", None, None)]
    assert cost_table(missing)["hours in all"].tolist() == ["2 (1 not recorded)"] * 2


def test_no_jobs():
    assert cost_table([]).empty
