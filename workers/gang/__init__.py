"""Ray actors that walk the blocks together: hired once for an attempt, kept between stages, and dismissed.
`RayCrew` is what the loops of `pipeline/blocks/` speak to.
The loops and the math stand in `pipeline`; here is only how calls, results and failures travel."""
