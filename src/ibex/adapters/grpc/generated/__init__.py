"""What protoc makes of ``proto/ibex/auth/v1/auth.proto``; ``make proto`` writes it anew."""
