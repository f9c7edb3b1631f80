package repository

import (
	"context"
)

// verify runs the checks of a client over the plan.
func (p *plan) verify(ctx context.Context) error { return ctx.Err() }
