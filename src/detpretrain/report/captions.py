"""How to read each figure and table of the report."""

COST_NOTE = (
    "Wall-clock hours, of interrupted trainings all attempts; peak memory of the GPU, or of the process on a CPU."
)
# what the figures over all data sets show, and how to read them
OVERVIEW = {
    "differences": (
        "Differences of all rows to the reference with their intervals",
        "Difference in AP@0.10 of every row to the reference of the same data set, detector and seed, with the interval of the "
        "paired bootstrap over patients. Filled: p below 0.05 after Holm's adjustment for all of them.",
    ),
    "gains": (
        "Heat map of the differences by row and data set",
        "The same differences by data set; an asterisk: p below 0.05 after Holm's adjustment.",
    ),
    "ranks": (
        "Mean ranks of the initialisations of each detector with their intervals",
        "Rank of the pooled AP@0.10 among the initialisations of a detector, mean over data sets, with its interval over draws "
        "of patients.",
    ),
    "critical_differences": (
        "Critical-difference diagram of each detector",
        "Mean ranks; a bar joins initialisations that the Nemenyi test cannot tell apart.",
    ),
}
SIZES_CAPTION = (
    "FROC score (mean sensitivity at 1/8 to 8 false positives per case) on the thirds of the objects by size (cube root of the "
    "box volume), with intervals over patients. False positives of every size count in each third, so that the thirds are scored "
    "at the same operating points."
)
FROC_CAPTION = (
    "FROC curves: share of objects found (IoU at least 0.10) against false positives per case, all classes and patients "
    "pooled; points: the seven rates whose mean sensitivity is the FROC score; bands: intervals over patients there."
)
LEARNING_CAPTION = (
    "Learning curves as logged in training: a line of panels per detector, a colour per initialisation; thin: each fold and "
    "seed, thick: their mean. Losses of two detectors do not compare. Nothing is selected on them: the last weights are used."
)
OVERLAY_CAPTION = (
    "The row of highest pooled AP@0.10 on its best, median and worst case by the case's own AP@0.10 (cases without objects "
    "have none). Slices pass through the centres of objects, then of detections. Detections are shown above the score that "
    "leaves one false positive per case on average."
)
ASSESSMENT_NOTE = (
    "What each pre-training has learned of its own task: its figure on the fixed validation views beside that of a trivial "
    "baseline on the same views, and their ratio. A pre-training that does not beat the baseline has not learned its task."
)
PROBE_NOTE = (
    "Balanced accuracy (mean recall over the classes, background included) of a linear classifier that reads labels of single "
    "voxels off the frozen encoder's features, on validation cases: mean (range) over the repeats. Random weights: the same "
    "architecture, untrained; intensity alone: the grey value and the mean of its patch."
)
TIME_NOTE = (
    "Median milliseconds per training step on the machine of the pre-training, reading from disk left out. Views: "
    "augmentation and what the method makes of the images; share: views / (views + pass)."
)
CURVES_CAPTION = (
    "Losses of the pre-trainings: training (solid) and validation (dashed, the same patches and views every epoch). Losses of "
    "different methods do not compare."
)
PROBE_CAPTION = (
    "Linear probe: a point per repeat (other training voxels, for random weights other weights too), a line at their mean; "
    "dotted: chance."
)
PREVIEW_CAPTION = (
    "Pretext task after training, a row per validation sample. Grey panels of a row share one window (1st to 99th percentile); "
    "label panels show background in black; matrices run from 0 to 1."
)
