"""The coefficients of each step, on the host in float64: the scheduler's half of a step rule.

Every function returns `{name: [T]}`, by the names of `rules.StepRule`. One-step samplers apply
their coefficients to the network's output itself. Sigmas are [T + 1] and descend. diffusers takes
differences of logarithms in float32; the closed forms here are exact: with λ = -log σ and h = λ' -
λ, exp(-h) is σ'/σ. Notation: α = 1/sqrt(σ²+1), s = σα, unprimed before the step and primed after
it; f is the network's output. A step to sigma 0 divides by zero in intermediate results (NumPy
warns); an infinite coefficient means that the step does not exist.
"""
