"""Names of the files that a run of ``gpuconv train`` leaves in its folder."""

MODEL, HISTORY, SETTINGS = "model.safetensors", "history.csv", "run.json"
CURVES, MISTAKES = "curves.png", "misclassified.png"
