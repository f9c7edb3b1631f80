package agent_test

const lifeEnv = "SLIPWAY_TEST_LIFE"

var failpointDir string
