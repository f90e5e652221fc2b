"""Other packages' estimators on the same games: tables of values looked up by coalition, evaluations counted."""

import numpy as np


class Lookup:
    """A game as a function of masks (S, P) that counts its rows."""

    def __init__(self, values_S):
        self.values_S, self.evaluations = values_S, 0

    def __call__(self, masks_SP):
        masks_SP = np.atleast_2d(np.asarray(masks_SP)).astype(np.int64)
        self.evaluations += len(masks_SP)
        return self.values_S[masks_SP @ (1 << np.arange(masks_SP.shape[1]))]


def _captum(make, n_samples):
    def estimate(game, n_players, budget, seed):
        import torch
        from captum import attr

        torch.manual_seed(seed)
        np.random.seed(seed)
        forward = lambda x: torch.from_numpy(game(x.numpy()))
        image = torch.ones(1, n_players, dtype=torch.float64)
        explainer = getattr(attr, make)(forward)
        return explainer.attribute(image, n_samples=n_samples(n_players, budget)).numpy()[0]

    return estimate


def _shapiq(make, **options):
    def estimate(game, n_players, budget, seed):
        from shapiq import approximator

        explainer = getattr(approximator, make)(n=n_players, random_state=seed, **options)
        found = explainer.approximate(budget, game)
        return np.array([found[(player,)] for player in range(n_players)])

    return estimate


PEERS = {  # name -> (game, players, budget, seed) -> phi
    "captum KernelShap": _captum("KernelShap", lambda n_players, budget: budget),
    "captum ShapleyValueSampling": _captum("ShapleyValueSampling", lambda n_players, budget: (budget - 2) // n_players),
    "shapiq KernelSHAP": _shapiq("KernelSHAP"),
    "shapiq KernelSHAP, paired": _shapiq("KernelSHAP", pairing_trick=True),
    "shapiq PermutationSamplingSV": _shapiq("PermutationSamplingSV"),
    "shapiq SVARM": _shapiq("SVARM"),
}
