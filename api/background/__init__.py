"""What runs beside the routes: the dispatcher, which hands jobs to Ray, and the scheduler, which fires
schedules. Both go on from the database alone, so that any number of API processes may run them. They answer
no request; what they share with routes lives in `service/`."""
