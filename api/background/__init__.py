"""The threads beside the routes: the dispatcher hands jobs to Ray, and the scheduler fires schedules. Both
keep their state in the database alone, so that any number of API processes may run them. They answer no
request; code that they share with routes lives in `service/`."""
