"""From a canonical task to arrays a network is trained on: fingerprint, plan, crop, resample, normalise, store, restore."""
