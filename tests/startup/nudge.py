"""Simulate another processor: every model's weights and every input of a fit, times 1 ± 1e-6.

Other processors, builds and thread counts round otherwise in the last bits, and a training
multiplies the difference. One cannot switch a processor, but one can change the last bits.

Two arrays of one shape are multiplied by the same numbers, which ``MRL_TEST_NUDGE`` seeds: where a
lesson starts two trainings from the same weights, they stay the same, as on another machine. Nor
is a model changed that is loaded from a file which the lesson itself has written.
"""

import functools
import os

SIZE = 1e-6


def factors(shape):
    import numpy as np

    generator = np.random.default_rng([int(os.environ["MRL_TEST_NUDGE"]), *shape])
    return 1 + SIZE * generator.choice([-1.0, 1.0], size=shape)


@functools.cache
def take_note():
    """Write a line for this process, so that a run can tell that its kernels were changed."""
    if log := os.environ.get("MRL_TEST_LOG"):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")


def nudged(values):
    """Return a changed copy of an array of floats, and anything else as it is."""
    import numpy as np

    if isinstance(values, tuple):
        return tuple(map(nudged, values))
    kind = getattr(values, "dtype", None)
    if not isinstance(values, np.ndarray) or kind.kind != "f":
        return values
    take_note()
    return (values * factors(values.shape)).astype(kind)


def nudge_(tensor):
    """Change a tensor of floats in place."""
    import torch

    if tensor.is_floating_point():
        take_note()
        with torch.no_grad():
            tensor.mul_(torch.from_numpy(factors(tuple(tensor.shape))).to(tensor))
    return tensor


def model_from(function):
    @functools.wraps(function)
    def build(*args, **options):
        model = function(*args, **options)
        for parameter in model.parameters():
            nudge_(parameter)
        return model

    return build


def start_of(function):
    @functools.wraps(function)
    def initialise(tensor, *args, **options):
        return nudge_(function(tensor, *args, **options))

    return initialise


def fit(function):
    @functools.wraps(function)
    def fit_nudged(*args, **options):
        options = {name: nudged(value) for name, value in options.items()}
        return function(*map(nudged, args), **options)

    return fit_nudged


def wrap(how, *names):
    """Return a change of a module: its functions, or methods of its classes, are wrapped."""

    def change(module):
        for name in names:
            *owners, last = name.split(".")
            owner = functools.reduce(getattr, owners, module)
            setattr(owner, last, how(getattr(owner, last)))

    return change


CHANGES = {
    "mrl_course.models": wrap(model_from, "build_static_model"),
    "mrl_course.pretrained": wrap(model_from, "load_pretrained"),
    "torch.nn.init": wrap(
        start_of, "uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_"
    ),
    "mrl_course.evaluation": wrap(fit, "pca_rotation"),
    "mrl_course.retrofit": wrap(fit, "fit_head"),
    "sklearn.cluster._kmeans": wrap(fit, "KMeans.fit"),
    "sklearn.decomposition._pca": wrap(fit, "PCA.fit", "PCA.fit_transform"),
    "umap.umap_": wrap(fit, "UMAP.fit"),
}
