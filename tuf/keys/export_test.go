package keys

// CheapPassphrases makes sealing fast enough for tests.
func CheapPassphrases(n int) (restore func()) {
	old := scryptN
	scryptN = n
	return func() { scryptN = old }
}
