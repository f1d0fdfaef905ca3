"""Rollouts and fits of small modules, for the tests beside."""

import torch

from lightning_modules.sampling import Sampling

GREEDY = Sampling(temperature=0.0, max_new_tokens=6)


def rollout_of(module, batch, seed=0):
    module.configure_model()
    torch.manual_seed(seed)
    return module.questioner.roll_out(module.policy, module.retriever, module._frozen, batch)


def moved(module, scale=0.05):
    """The module with policy and query encoder away from where they started."""
    module.configure_model()
    torch.manual_seed(9)
    with torch.no_grad():
        for part in module.trained_parts():
            for parameter in part.parameters():
                parameter += scale * torch.randn_like(parameter)
    return module


def same(left, right, **tolerance):
    for p, q in zip(left.parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(p, q, **tolerance)


def unlike(left, right):
    return any(not torch.equal(p, q) for p, q in zip(left.parameters(), right.parameters(), strict=True))


def fitted(rast, data, trainer, epochs=1, **settings):
    module = rast(**settings)
    fit = trainer(max_epochs=epochs, log_every_n_steps=1)
    fit.fit(module, datamodule=data)
    return module, fit
