"""The code that protoc generates from ``proto/ibex/auth/v1/auth.proto``; ``make proto`` regenerates it."""
