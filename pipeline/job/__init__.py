"""The life of a job: its typed events, the state that they fold into, and the ledger of finished work in
storage. Drivers emit events, the API folds them, and both read the ledger. The code here knows neither the
database nor Ray."""
