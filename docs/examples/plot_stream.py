"""
How does a detector keep up with a stream?
==========================================

What is normal moves: machines wear, prices rise. A detector that was trained once raises more and more false alarms.
``partial_fit`` goes on learning from the rows that come, and ``partial_calibrate`` lets the threshold follow.

The stream is generated: twelve sensors that are driven by three hidden causes, whose levels drift slowly, a chunk of
200 rows at a time. One row in fifty is a fault, in which a single sensor is off.
"""

import matplotlib.pyplot as plt
import numpy as np

from skvae import VAEAnomalyDetector

rng = np.random.default_rng(0)
n_chunks, n_rows = 20, 200
loadings = rng.normal(size=(3, 12))
drift = np.cumsum(rng.normal(0.1, 0.05, size=(n_chunks, 3)), axis=0)


def chunk(t):
    """Rows of a time, and which of them are faults."""
    causes = rng.normal(size=(n_rows, 3)) + drift[t]
    rows = np.tanh(0.4 * causes @ loadings) * 2 + 0.5 * causes @ loadings + rng.normal(scale=0.3, size=(n_rows, 12))
    faults = rng.random(n_rows) < 0.02
    rows[faults, rng.integers(0, 12, faults.sum())] += rng.choice([-4, 4], faults.sum())
    return rows, faults


# %%
# Two detectors
# -------------
# Both learn from rows of the time before. Then one stays as it is, and the other gets every chunk after it was judged
# and somebody has looked at its faults: half of the normal rows to learn from, the other half to calibrate with. No
# row is used for both.

past = np.concatenate([chunk(0)[0] for _ in range(10)])
still = VAEAnomalyDetector(3, max_iter=30, random_state=0).fit(past[:1000])
still.calibrate(past[1000:], false_alarm_rate=0.02)
moving = VAEAnomalyDetector(3, random_state=0)
for _ in range(30):
    moving.partial_fit(past[:1000])
moving.partial_calibrate(past[1000:], false_alarm_rate=0.02, window=300)

alarms, caught = {"still": [], "moving": []}, {"still": [], "moving": []}
for t in range(n_chunks):
    rows, faults = chunk(t)
    for name, detector in (("still", still), ("moving", moving)):
        flagged = detector.predict(rows) < 0
        alarms[name].append(flagged[~faults].mean())
        caught[name].append(flagged[faults].sum())
    normal = rows[~faults]
    half = len(normal) // 2
    for _ in range(2):
        moving.partial_fit(normal[:half])
    moving.partial_calibrate(normal[half:], false_alarm_rate=0.02, window=300)

# %%
for name in alarms:
    first, last = np.mean(alarms[name][:10]), np.mean(alarms[name][-10:])
    print(
        f"{name:<7} false alarms {first:.3f} in the first ten chunks, {last:.3f} in the last ten, where 0.02 was asked"
    )

# %%
# The picture: what a chunk of the stream looks like, and the false alarms.

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
left.plot(drift, color="0.6")
left.set(xlabel="chunk", ylabel="level of the three causes", title="what is normal moves")
for name, colour in (("still", "#cc3311"), ("moving", "#4477aa")):
    right.plot(alarms[name], color=colour, marker=".", label={"still": "trained once", "moving": "follows"}[name])
right.axhline(0.02, color="black", linestyle="--", linewidth=1, label="asked for: 0.02")
right.set(xlabel="chunk", ylabel="false alarms, share of normal rows", title="what two detectors make of it")
right.legend(frameon=False)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
