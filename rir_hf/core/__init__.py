"""What every step shares: settings that are its identity, batches of columns, seeded draws, records
of what was done.
"""
