"""Balancing L_g and L_f: each is a `combine(losses, model) -> scalar` whose backward() gives the gradients wanted.

losses is (task_loss, feature_loss), two scalars with their graph. The bar for all the rest:
`fixed_weight` tuned on validation data, and `RandomWeights`, which a clever rule has to beat.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sftlib.inputs import finite, positive

Combine = Callable[[Sequence[Tensor], nn.Module], Tensor]


def fixed_weight(feature_weight: float) -> Combine:
    """-> combine: L_g + lambda L_f with a lambda >= 0 that stays."""
    feature_weight = finite("feature_weight", feature_weight, least=0)

    def combine(losses: Sequence[Tensor], model: nn.Module) -> Tensor:
        task_loss, feature_loss = _pair(losses)
        return task_loss + feature_weight * feature_loss

    return combine


def gradient_norm_ratio(shared: str, *, max_weight: float = 1e4, eps: float = 1e-4) -> Combine:
    """-> combine: L_g + lambda L_f with lambda = ||grad L_g|| / (||grad L_f|| + eps), at most max_weight.

    Both gradients are those of one parameter that both losses reach, `shared` by name as in
    model.named_parameters(): usually the last weight of the backbone. lambda is detached: a number.
    Esser et al. 2021, Taming transformers for high-resolution image synthesis, arXiv 2012.09841.
    """
    positive("max_weight", max_weight)
    positive("eps", eps)

    def combine(losses: Sequence[Tensor], model: nn.Module) -> Tensor:
        task_loss, feature_loss = _pair(losses)
        task_norm, feature_norm = _gradient_norms(losses, model, shared)
        return task_loss + (task_norm / (feature_norm + eps)).clamp(max=max_weight) * feature_loss

    return combine


class UncertaintyWeights(nn.Module):
    """combine: sum_i 1/2 e^{-s_i} L_i + 1/2 s_i with learned s = (s_g, s_f), the logs of two variances.

    This is the regression form for both losses. Its optimum is e^{s_i} = L_i, an effective weight of 1/(2 L_i):
    it lowers the sum of the *logarithms* of the losses. So the weight grows without bound as a loss goes to 0,
    and a loss below 0 has no optimum. The two s are parameters: put this module into the optimizer too.
    Kendall et al. 2018, Multi-task learning using uncertainty to weigh losses, arXiv 1705.07115.
    """

    def __init__(self):
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(2))

    def forward(self, losses: Sequence[Tensor], model: nn.Module | None = None) -> Tensor:
        """losses (L_g, L_f) -> scalar"""
        s = self.log_variances
        return 0.5 * ((-s).exp() * torch.stack(_pair(losses)) + s).sum()


class GradNorm(nn.Module):
    """combine: w_g L_g + w_f L_f with weights trained so that both losses pull with their due norm.

    G_i = w_i ||grad L_i|| at the parameter named `shared`; its target is mean(G) r_i^alpha, where r_i is the
    loss relative to that of the first step, divided by the mean of the two: the loss that lags gets more. The
    weights are a parameter, so put this module into the optimizer (without weight decay); they are kept
    positive and renormalised to sum 2 at each call.

    The scalar's value is the weighted sum. To it is added sum |G_i - target_i| minus its own value: nothing to
    the value, and to the gradient only what moves the weights.
    Chen et al. 2018, GradNorm, arXiv 1711.02257, eqs. (1) and (2).
    """

    def __init__(self, shared: str, *, alpha: float = 1.5):
        super().__init__()
        self.shared, self.alpha = shared, finite("alpha", alpha, least=0)
        self.weights = nn.Parameter(torch.ones(2))
        self.register_buffer("first_losses", torch.full((2,), torch.nan))

    def forward(self, losses: Sequence[Tensor], model: nn.Module) -> Tensor:
        """losses (L_g, L_f) -> scalar"""
        pair = torch.stack(_pair(losses))
        with torch.no_grad():
            self.weights.clamp_(min=1e-3).mul_(2 / self.weights.sum())
            first = torch.where(self.first_losses.isnan(), pair, self.first_losses)
            self.first_losses.copy_(first)
        pulls = self.weights * torch.stack(_gradient_norms(losses, model, self.shared))
        distance = (pulls - self.targets(pulls, pair)).abs().sum()
        return (self.weights.detach() * pair).sum() + distance - distance.detach()

    @torch.no_grad()
    def targets(self, pulls: Tensor, losses: Tensor) -> Tensor:
        """pulls G (2,), losses (2,) -> target of each pull (2,)"""
        progress = losses / self.first_losses
        return pulls.mean() * (progress / progress.mean()) ** self.alpha


def pcgrad(losses: Sequence[Tensor], model: nn.Module) -> Tensor:
    """losses (L_g, L_f) -> scalar L_g + L_f whose gradient is the sum of the two *projected* gradients.

    Over the parameters that both losses reach, with g and h their two gradients: if g.h < 0, each is projected
    on the plane normal to the other, g - (g.h/||h||^2) h and h - (g.h/||g||^2) g. Otherwise, and for all other
    parameters (the head, learned prototypes), the gradients are the ordinary ones.

    How a number can have a gradient of our choice: for a constant vector c, <c, p> - <c, p>.detach() is 0 and
    its gradient with respect to p is c. Here c is what the projection adds to g + h. Costs three backward
    passes instead of one.
    Yu et al. 2020, Gradient surgery for multi-task learning, arXiv 2001.06782, algorithm 1.
    """
    total = sum(_pair(losses))
    reached = [p for p in model.parameters() if p.requires_grad]
    g, h = (_gradients(loss, reached) for loss in losses)
    shared = [(p, a, b) for p, a, b in zip(reached, g, h, strict=True) if a is not None and b is not None]
    if not shared:
        raise ValueError(
            "got two losses that share no trainable parameter of the model, expected at least one: unfreeze a "
            "part of the backbone (feature_loss must come from model.backbone's features)"
        )
    dot = sum((a * b).sum() for _, a, b in shared).clamp(max=0)  # 0 where the two agree
    per_g = dot / _positive(sum(a.square().sum() for _, a, _ in shared))
    per_h = dot / _positive(sum(b.square().sum() for _, _, b in shared))
    extra = sum((p * -(per_g * a + per_h * b)).sum() for p, a, b in shared)
    return total + (extra - extra.detach())


class RandomWeights(nn.Module):
    """combine: w_g L_g + w_f L_f with w = softmax of two standard normal draws, new at each step, sum 1.

    No sense in it, on purpose: a balancer that does not beat this does not help. On average it is half of
    L_g + L_f, so tune the learning rate for it. The generator's state is part of state_dict().
    Lin et al. 2022, Reasonable effectiveness of random weighting, arXiv 2111.10603.
    """

    def __init__(self, generator: torch.Generator):
        super().__init__()
        if not isinstance(generator, torch.Generator):
            raise ValueError(f"got a {type(generator).__name__}, expected a torch.Generator().manual_seed(0)")
        self.generator = generator

    def forward(self, losses: Sequence[Tensor], model: nn.Module | None = None) -> Tensor:
        """losses (L_g, L_f) -> scalar"""
        pair = torch.stack(_pair(losses))
        draws = torch.randn(2, generator=self.generator, device=self.generator.device)
        return (draws.softmax(0).to(pair) * pair).sum()

    def get_extra_state(self) -> Tensor:
        """-> the generator's state, for state_dict()"""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """From load_state_dict(): the draws go on where they stopped."""
        self.generator.set_state(state.cpu())


def _pair(losses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    if len(losses) != 2 or not all(isinstance(loss, Tensor) and loss.ndim == 0 for loss in losses):
        got = [tuple(loss.shape) if isinstance(loss, Tensor) else loss for loss in losses]
        raise ValueError(
            f"got losses {got}, expected two scalar tensors (task_loss, feature_loss): a balancer needs both; "
            "take the mean over the batch"
        )
    return tuple(losses)


def _gradient_norms(losses: Sequence[Tensor], model: nn.Module, shared: str) -> tuple[Tensor, Tensor]:
    """-> norms of the gradients of the two losses at one parameter, as numbers without graph"""
    parameter = dict(model.named_parameters()).get(shared)
    if parameter is None or not parameter.requires_grad:
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        raise ValueError(
            f"got shared={shared!r}, expected the name of a trainable parameter that both losses reach: "
            f"choose one of {names[:3]} … {names[-3:]}, usually the last of the backbone"
        )
    gradients = [_gradients(loss, [parameter])[0] for loss in losses]
    if any(gradient is None for gradient in gradients):
        raise ValueError(
            f"got shared={shared!r}, which only one of the losses reaches, expected a parameter of the backbone: "
            "the feature loss does not depend on the head"
        )
    return tuple(gradient.norm() for gradient in gradients)


def _gradients(loss: Tensor, parameters: list[Tensor]) -> Sequence[Tensor | None]:
    """-> a gradient for each parameter, None where the loss does not depend on it; keeps the graph"""
    if not loss.requires_grad:  # everything below it is frozen or detached
        return [None] * len(parameters)
    return torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)


def _positive(squared_norm: Tensor) -> Tensor:
    """A divisor for a number that is 0 whenever the divisor is"""
    return torch.where(squared_norm > 0, squared_norm, 1.0)
