"""Write tickets.json: 1000 support tickets for an invented product, sorted into five categories.

The product is *Rotaquill*: shift planning, a time clock, time sheets and invoicing for small firms. (So "invoice" may
mean the bill a customer gets from Rotaquill, or one that a customer writes with it: only reading tells.)

A ticket's category is what it mainly asks for:

* ``billing``: money between the customer and Rotaquill. Charges, invoices from us, prices and plans' prices, discounts,
  refunds, payment methods, contract terms that cost or save money.
* ``technical``: something that exists is broken, wrong, slow or raises an error, whichever part of the product it is
  in (an invoice page that does not load, a login page that is down for all).
* ``account``: who gets in and who may do what. Login, password, second factor, users, roles and permissions, profile
  and e-mail changes, own notification settings, taking over, merging, closing and deleting accounts.
* ``feature_request``: asks for something that the product does not do, also when it is put as a complaint.
* ``other``: all the rest. Praise, complaints about people, press, jobs, partners, sales pitches, training and general
  questions, legal and compliance paperwork, research, tickets that need no answer, and mail meant for somebody else.

How a ticket is made: one hand-written sentence or two that carry the ask (a *phrasing*; four for each of twenty
*scenarios* a category), and around it a greeting, a context, a detail such as people add to asks of that category, an
aside in the vocabulary of another category, a closer, a signature and typing noise, as the writer's tone has it. No
two tickets of different splits share the sentence that carries the ask: two of a scenario's phrasings make the train
split's tickets (four around each), one the dev split's and one the test split's (one ticket each). What stands around
it comes from common pools. One scenario in twenty is ambiguous (two categories could be defended; the label is the
main ask): marked ``?``.

The file's order is the split: 800 to train on, 100 dev, 100 test, all five categories equally often in each.

Run it to write the file anew: ``python examples/ticket_sorting/generate_tickets.py``. Standard library only, and
nothing but ``random.Random.random`` is drawn from, so that every Python version writes the same bytes.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

SEED = 20260
T = TypeVar("T")

CATEGORIES = ("billing", "technical", "account", "feature_request", "other")
SPLITS = {"train": 800, "dev": 100, "test": 100}
# Of the four phrasings of a scenario: how many a split gets, and how many tickets are made around each.
USES = {"train": (2, 4), "dev": (1, 1), "test": (1, 1)}
MAX_SIMILARITY = 0.3  # no ticket is nearer than this to one of another split (Jaccard of 3-word shingles)
MIN_WORDS, MAX_WORDS = 6, 70

# The phrasings. "[scenario | flags]" opens a scenario; each line under it is one phrasing. Flags:
#   ? ambiguous    ! kept out of the train split    = the writer is no customer    ~ the writer is no manager
#   - nothing but the ask    . states something, asks for nothing    ^ may be angry (in "other"; elsewhere anyone may)

BILLING = """
[charged twice]
We were charged twice for {month}, once on {date} and again two days later.
My card statement shows {amt} from you two times. I only have one workspace.
Why did the same subscription go through on both our cards? One of them has to be returned.
You have taken the monthly fee a second time, and nobody here pressed anything.
[refund after cancelling]
I cancelled before the trial ended and {amt} still left my bank. I'd like it back.
Cancelled on {date}, confirmation mail in hand, and the money was taken anyway. Send it back please.
When can I expect the refund {name} promised me? It has been {n} weeks.
It is {m} days that I have stopped the subscription and the sum was not given back to me.
[invoice copy]
Our accountant needs the invoice for {month}, can you send it as a pdf?
Could somebody mail me copies of everything you billed us for last year?
I deleted the mail with {inv} by accident. May I have it again?
Where do I find the receipts for our subscription? Tax office wants the whole of last year.
[vat number]
{inv} is missing our VAT number, so we cannot book it. Please reissue it.
You charged us VAT although we are a registered business in another EU country.
Our tax ID was entered after the last invoice went out. Can the older ones be corrected?
Is sales tax included in the {amt} or does that come on top? We are a charity and exempt.
[card expired]
The card you have on file expires in {month}. Which day do you charge next, so that I replace it in time?
My bank sent a new card and the old number is dead. Where does the new one go?
Got the mail that the renewal was declined, it's only that the card ran out. Try again with the new one please.
Our company card was stolen and blocked; please do not charge it, I will give you another tomorrow.
[price increase]
We used to pay {amt}, now it is nearly double. Nobody told us about an increase.
Your mail says prices go up in {month}. Does that touch customers who have paid for the year?
A {m}% rise in one go, with the same product as before? I want the old rate honoured.
I would like to understand why {plan} costs more this year than when we joined.
[plan comparison price]
What would {m} people on {plan} cost us per month?
Is there a difference in cost between {plan} and {plan2} if only half of the staff use the clock?
I can't work out from the website if the price is per user or per location.
Before I show this to my boss: total per year for {m} staff, all in, no surprises?
[discount nonprofit]
We are a volunteer-run animal shelter. Do you give a discount to charities?
Do schools pay the full rate for {plan}?
Two hundred users at the list price is too much for us. What can you do for a three year deal?
A friend told me you had half price for new cooperatives. Is that still on?
[annual switch]
How much do we save if we pay yearly instead of monthly?
Please put us on yearly payment from the next renewal, and send the bill for it before the end of {month}.
I clicked yearly by mistake and {big} is gone. I wanted monthly!
If I go from annual back to monthly, do I lose what I have paid already?
[seats charged]
You bill us for {m} people. We are {n}. Explain.
Three employees left in {month} but we still pay for their seats.
Added one person on the 30th and paid for the full month. Is that not pro rata?
Do seasonal workers who only log in in summer count as paid seats all year round?
[bank transfer]
Can we pay by bank transfer? Our company has no credit card.
I transferred {big} on {date} with reference {inv}; has it arrived with you?
Please give us your bank details in writing, the finance department refuses to type a card number anywhere.
Direct debit instead of card: possible or not?
[failed payment suspended]
Account says "past due" but I paid on {date}. Here's the bank confirmation number: {ref}.
Third reminder from you about an amount that we settled weeks ago. Stop it.
We got a suspension warning for {inv}. It was paid in full, kindly check your books.
Payment bounced because of a bank holiday. Can you give us until {day} before you shut the door?
[wrong company name on invoice]
The invoice is made out to our old company name. Auditors won't accept it.
{inv} shows the wrong address, we moved in {month}. I need a corrected one.
Kindly put "attn: accounts payable" and PO {ref} on what you bill us from now on.
Could the bill go to the holding instead of to the shop? Same people, other legal entity.
[promo code]
The voucher {code} was supposed to give us {m}% off but the checkout took the full price.
I forgot to put my discount code in when I paid. Can you still apply it?
Your newsletter promised three months half price. My statement says otherwise.
Is there a limit on how often {code} works? We have two shops and only one got it.
[trial converts]
Will I be charged automatically when the trial is over?
I gave my card only for the trial. Promise me it is not debited on {date}.
The trial was supposed to be 30 days and you took {amt} on day 14.
Do I need to enter a card for trying {plan2}, and what is taken on the first day?
[unknown charge]
There is a {amt} line from ROTAQUILL on my statement that I cannot place.
What is the {amt} on {date} for? It is not our usual sum.
My business partner passed away and I keep seeing your monthly debit on his card. Please end it.
Somebody has used our card with your company. We dispute the {big}.
[late fee]
A late fee of {amt}? The bill only reached me on {date}.
Please waive the reminder fee, I was in hospital.
You added interest to {inv} though we agreed on sixty days.
Charging us for being one day late after four years of paying on time is shabby.
[quote]
Can you send a formal quote for {m} users, valid until the end of {month}?
My manager will only sign if there is an offer on paper with the total for two years.
Need pricing for {plan} incl. onboarding. Two sites, {m} people.
I'd like a pro forma so that our purchasing can release the money.
[credit note]
We need a credit note for {inv}, the amount was wrong from the start.
Your colleague promised to credit {amt}. I see nothing.
There's a balance of {amt} in our favour. Can it be paid out instead of set against the next bill?
A credit note came without any explanation, what is it for?
[locked for payment | ?]
I can't log in because of an unpaid bill, but the bill is paid. Sort out the payment so we can work.
All my staff are locked out over {amt} which was transferred on {date}!
The owner left and with him the card. We need to pay from another one before you shut us off.
Somebody switched us to {plan2} without my permission as admin, I won't pay for that.
"""

TECHNICAL = """
[roster blank]
The roster page stays white since this morning.
When I open the week view I only see the header and a grey box, no shifts.
All our shifts for {month} have disappeared from the board, they are still there on {name}'s phone though.
Schedule loads, blinks and is empty. Same on every computer in the office.
[app crashes]
The mobile app closes itself as soon as I tap on "my shifts".
Since the update on {date} the app crashes on start. Reinstalled it {n} times.
Rotaquill on the tablet quits whenever two people clock in one after the other.
App just dies. Opens, spins, gone.
[invoice page not loading]
The invoice page doesn't load, it only turns and turns. Everything else works.
Clicking on any client invoice gives "something went wrong (E-{n}{m})".
I cannot open the invoicing tab: blank screen after the new design came.
Creating an invoice for a client ends in a 500 page each time I add a third line.
[export broken]
Payroll export produces a file of zero bytes.
The csv from the hours report has all the columns shifted by one.
I start the export, the bar reaches {m}% and then nothing more happens.
Export to spreadsheet cuts off after 1000 rows. We've about 4000.
[clock in fails]
Staff press clock in and it says "try again later". All day long.
The kiosk does not accept the badges any more, red light at each try.
Clock-ins from this morning are not in the timesheet, {n} people affected.
The time clock runs {n} minutes late against every other clock in the building.
[slow]
Everything's extremely slow since {day}, a click takes {m} seconds.
Loading the month takes ages if more than {m} employees are shown.
Why does the approval screen need half a minute? Our internet is fine, I measured it.
It is since one week that the system is working very slowly in our office.
[notifications]
Nobody gets the shift reminders, neither mail nor push.
Employees receive the same notification {n} times in a row.
Shift reminders arrive at 3 in the night although they're set for 18:00.
Text reminders go out to people who aren't even on the shift.
[calendar feed]
The calendar feed shows shifts one hour off since the clocks changed.
My shifts stopped showing in the calendar on my phone on {date}. Removing and adding the link did nothing.
The iCal link returns 404 for about half of our people.
Cancelled shifts remain in the synced calendar forever.
[login page error]
The login page itself doesn't come up, just "502 bad gateway".
After pressing sign in the button greys out and nothing follows, for everyone in the company at once.
Since the update, Rotaquill throws every one of us out after about {n} minutes in the middle of typing.
The page reloads itself in a loop when I come from the login, on each of our machines.
[drag and drop]
Can't drag shifts any more, they jump back to where they were.
When I move a shift to {day} it's saved on the day before.
Copying last week puts everything on top of one another.
Dropping a shift on a person makes a duplicate instead of moving it.
[timesheet totals wrong]
The total in the timesheet is wrong: 8 + 7.5 + 8 gives 31.5 in your software.
Overtime is counted double for anyone who works past midnight.
Breaks aren't deducted from the hours since the last release.
Hours for {name} show as negative, minus {m}.
[save fails]
Changes aren't saved. I edit a shift, press save, and after a refresh the old one is back.
"Unable to save, conflict detected" whenever I touch next week.
I typed the whole plan for {month} and it's gone, for the second time now.
Save button does nothing at all, no message, nothing.
[file upload]
Uploading a sick note fails with "unknown type" though it's a plain pdf.
Photos of receipts turn up sideways or not at all.
The staff import rejects my file at row {m} without saying why.
Logo upload for the invoice template gives error {n}0{n}.
[api errors]
Your API answers 429 even when we send one call per minute.
Webhooks for shift.updated haven't fired since {date}.
The /timesheets endpoint returns the hours of the wrong week when a time zone is given.
Our integration gets "invalid token" every night around {time} and recovers by itself.
[search]
Search finds nobody, even when I type the exact name.
Filter by location ignores what I choose and shows all {m} people.
Looking for José gives no result, Jose neither.
The search field freezes the tab after three letters.
[print]
The printed roster cuts off Saturday and Sunday.
Printing gives {m} empty pages and one with half a table.
Colours are gone from the printed plan, black boxes only.
The pdf of the weekly plan has names on top of names.
[time zone]
Our second shop is in another time zone and all its shifts show up {n} hours too early.
After the change to summer time all night shifts are an hour too long.
The system thinks we're in Alaska. Setting it back doesn't hold.
Times on the kiosk and on the web differ by exactly an hour.
[report wrong]
The labour cost report shows {big} for a week in which we were closed.
Forecast graph is flat at zero since {date}.
The attendance report counts everyone as late, including those who were on holiday.
Report mails arrive empty, only the title and no rows.
[duplicate records]
Every employee appears twice in the list after the import.
Each shift I create is created {n} times.
Timesheets of {month} have been doubled overnight.
Two copies of the same client show up in invoicing and the hours are split among them randomly.
[missing or bug | ?]
There used to be a copy button on the week view. Where has it gone? It's not there since the update.
Sort by surname does not exist in the new version, in the old it worked. Please repair.
The board only shows two weeks at a time now. Before it was four.
Dark mode is gone after yesterday's release.
"""

ACCOUNT = """
[forgot password]
I forgot my password and the reset mail goes to an address I no longer have.
Need a new password please, mine stopped being accepted after my holiday.
My colleague {name} can't remember her password, can you send her a link?
Password unknown, security question unknown, please let me in again.
[locked out attempts]
I typed the wrong code five times and am locked out now.
"Too many attempts" is all I get. How long must I wait?
{name} is blocked after mistyping, he has to publish the plan by {time}. Unlock him?
Please lift the block on my sign-in, it was caps lock, not a hacker.
[lost phone 2fa]
My phone fell into a lake and with it the authenticator. How do I get in?
New phone, no codes, no backup sheet. Help.
Could you switch off the second factor for {name} till he has a phone again?
I get asked for a six digit code that only my ex-colleague's phone can make.
[change email]
I married and have another e-mail address now, how can I change it for the sign-in?
We're moving to a new domain: all {m} addresses have to change. Can this be done in one go?
My address is misspelled in your system, so that I never get the confirmation.
Where can I change the address under which I'm registered?
[add admin]
How do I make {name} an administrator too?
I'm going on parental leave and a second person must have full rights before {day}.
Please give {name} the same rights as me.
Our new office manager needs to be able to do everything I do, what must I tick?
[remove user]
{name} doesn't work with us any more, I want him out of the workspace today.
An employee who was let go can still sign in. Take away the access now!
How can I take out someone without losing her old hours?
Which steps remove a freelancer's login once the project is over?
[delete account]
Please delete my account and everything in it.
I don't work in shifts any more. Remove my profile.
How do I close the workspace for good?
We've stopped using the tool; I'd like our data and logins wiped by the end of {month}.
[owner left]
The owner of our workspace has left the company and nobody can take over. What do you need from us?
Our director died and he was the only admin. How can we get hold of the workspace?
Transfer the ownership from {name} to me please, she agrees and is in copy.
The agency which set up our workspace is still the owner. We want that to be us.
[roles permissions]
Shift leads can see everyone's hourly wage. How do I take that away from them?
I'd like {name} to approve leave and nothing else.
What's the difference between a manager and a planner as a role?
Which rights does someone need to publish a roster?
[invite expired]
The invitation to join our team has expired, can I get another?
{name} says that her invite link was already used. She has not used it.
I invited {m} people and only {n} came in; please send it to the others again.
The invite went to my old work address. Can it be sent to this one?
[sso]
We'd like our staff to sign in with the company login. What do we have to configure on our side?
How do I force single sign-on for all except the kiosk user?
Our identity provider changes on {date}; what must we swap in the settings?
Need your metadata file for SAML, our IT sets it up on {day}.
[two accounts merge]
I have two profiles by mistake, one private and one for work. Make it one please.
My hours are spread over two logins. Could they be put together?
{name} signed up twice and now gets planned under the wrong one.
Can the workspaces of our two shops be joined, keeping everybody's login?
[name change]
My name changed from {name} to something else, please use the new one everywhere.
How do I correct a typo in my surname? The field is grey.
Employee changed gender and first name, the old name must not appear anywhere.
We've rebranded: where does the company name get changed in the settings?
[suspicious login]
I got a mail about a sign-in from a country I've never been to.
Somebody changed my shifts under my name. I think that my access has been stolen.
Please log me out of all devices, I left a tablet on the train.
Who has signed in to our workspace on {date}? I don't recognise the entry.
[phone number change]
I have a new mobile number. Where do I enter it so that the codes reach me?
Codes go to {name}'s old number, she needs them on the new one.
Remove my private number from my profile please.
My number is taken, says the form. It's my number!
[reactivate]
Our workspace was deactivated over the winter. We open in {month}, please switch it on.
I deleted {name} by accident, can she come back with her history?
Seasonal people from last year return. How do I make their profiles active again?
I closed my account on {date} and regret it. Is it still there?
[bulk users]
How can I add {m} new starters at once?
We'd like to change the role of everyone in the kitchen together.
Is there a way to deactivate all temps on the same day?
I need a list of who has access to what, for our yearly check.
[recovery codes]
I've used up all my recovery codes. Where are new ones?
Where do I find those ten backup codes you talk about?
The recovery code that I wrote down isn't accepted, maybe I mixed up 1 and l.
Can admins see the backup codes of employees?
[enforce 2fa]
How do I make two-step sign-in compulsory for all managers?
We turned on the second factor for all, and our cleaners have no smartphones. What now?
Two-factor by text or by app: how can a user choose?
I'd like to turn off the verification code, I'm the only one here.
[login or broken | ?]
I can't log in on the app, on the web I can. Password's the same. It just says "invalid".
The reset link says expired the minute I get it. I only want to get back in.
My code is always wrong, {n} tries, the clock of the phone is right. Let me in please.
Sign-in throws me back to the start without a word, but only with my user, all others are fine.
"""

FEATURE_REQUEST = """
[dark mode]
A dark theme would save my eyes on night shifts.
When will there be a night mode in the app? All others have one.
My retinas burn at 4 am. Black background, please, some day.
Could you think about a darker colour scheme for the kiosk?
[recurring shifts]
I need shifts that repeat every third week, you only offer weekly.
Why can one not set up a pattern like two on, three off? I build it by hand each time!
It'd help us to have rotating patterns which roll on by themselves.
Suggestion: templates for the roster that span {n} weeks.
[bulk edit]
Let me tick ten shifts and change the start for all of them together.
Editing {m} shifts one after the other is torture. There should be a way to select several.
Multi-select on the board, pretty please?
I'd want to move a whole team's week by one day with a single action.
[export formats]
Besides csv it would be great to get the hours as a proper spreadsheet with formulas.
We need an export that our payroll bureau's format accepts. Any plans?
Can you make the report come as JSON as well?
An export by cost centre is what keeps us from dropping our own sheet.
[scheduled reports]
Mail me the overtime report each Monday, automatically. Now I have to click for it.
Reports on a timer, that's all I want.
I wish that the attendance list would be sent to the site managers by itself at {time}.
Do you intend to offer scheduled exports to a folder?
[shift bidding]
Please let staff bid on open shifts, with the oldest contract first.
We'd like an open shift pool where people pick what they want and I confirm it.
It's a pity that nobody can offer a shift to only one colleague.
Waiting list for popular shifts: anything planned?
[split invoices]
For our client invoices I'd like to bill by shift type, nights at another rate.
Give us partial payments on the invoices we write, clients pay in two halves.
We miss a field for the client's PO number on our invoices.
Late clients should get a reminder by themselves. I write these by hand now.
[custom roles]
The fixed roles don't fit us. I'd like to be able to build my own.
Add a right for seeing a roster without phone numbers, now it's all or nothing.
There's no way of giving rights per location and per weekday. It should be thought of.
A trainee role that needs a co-sign for everything would be perfect.
[audit log]
I want to see who changed which shift and when, there is no history at all.
A change log per shift, like in text documents?
Every argument here ends with "it wasn't me". Keep track of the edits, please.
We'd need the record of permission changes to be kept for a year, today it's not kept.
[language support]
Do you plan a Portuguese version? Half of the crew doesn't read English.
Welsh, please! The council requires it of us.
It would be kind to offer right-to-left for our Arabic-speaking colleagues.
The kiosk could greet everyone in their own language, how about it?
[calendar two way]
The calendar feed is one way. We'd like that what I enter there blocks me here.
Pull my private appointments in as unavailable, without showing what they are.
Can the sync be a matter of minutes rather than a day? At present it is by design slow.
Meeting rooms in the same calendar as the people: that would help us.
[availability]
Staff should be able to say "rather not" and not only yes or no.
Availability for the entire school year, not week by week, would be a relief.
Please think of a limit for how often someone may block Saturdays.
Let students paste their lecture timetable as unavailable time.
[offline mode]
Our building site has no network. A real offline mode is needed.
The clock should go on working without internet and send it all later.
Let people see last week's roster in a cellar without reception.
We work on ships. Do you foresee anything for weeks without a connection?
[messages]
Read receipts in team chat would settle many a dispute.
I'd like to pin a message at the top for everyone who starts a shift.
Chat needs a quiet mode after work, our union asks for it.
Polls! Who comes to the barbecue, who can work on {day}.
[skills]
Let me tag people by certificate and warn me if there's nobody with first aid on the shift.
It's not possible to say that a forklift licence ends in {month}. I want it to be.
Could shifts demand a skill, so the wrong person cannot be dragged there?
Language skills per person, visible while planning, are missing.
[expenses]
I'd like the crew to hand in their parking receipts together with the hours.
Tips! We split them by hours each evening on paper, you have all the numbers.
Meal allowances by shift length, could you calculate those?
A field for cash advances to staff would round it off.
[dashboard]
Put late arrivals, open shifts and birthdays on a single start page.
Why is there no overview across our {n} locations? I've got to click into each.
Own charts would be grand, the three that you have don't tell me a thing.
Compare this year's {month} with last year's next to each other, can you build it?
[keyboard shortcuts]
As a power user I beg for keyboard shortcuts.
Undo! Ctrl+Z on the board! How can a planning tool in this century not have it?
Right-click menu on shifts would halve my clicks.
Copy and paste between weeks doesn't exist and it should.
[client portal]
Our customers want to see who comes to them, give them a small portal.
Let clients approve the hours before I invoice them.
A page where clients book extra shifts for themselves would save so many calls.
The client should get a mail if the carer is late, can this be thought of?
[request or bug | ?]
The total row at the foot of the week doesn't count breaks. Please make it do so.
Timesheets can't be sorted by surname, that's half broken to my mind. Add it.
Names longer than {m} letters are cut on the board. Let them wrap.
The board doesn't refresh until I reload. I'd like it live.
"""

OTHER = """
[praise | .]
Just wanted to say that {name} in your support was wonderful yesterday.
No question at all. You make our mornings easier and I thought you should hear it.
Your tool has ended twenty years of pencil and eraser. Thank you from the whole bakery.
Whoever fixed our login on Sunday deserves a cake. That's all!
[complaint about service | ^]
Your hotline kept me waiting for {m} minutes and then hung up.
I find the tone of your colleague's answer unacceptable. I want to make a complaint about it.
Four tickets, four robots. Is there a human in your company?
Please pass on to your boss that I was not happy with how I was spoken to.
[job application | =]
Are you hiring? I've been in support for {n} years.
I'd like to apply as a working student, whom do I write to?
My CV is attached for the post of technical writer in your billing team.
Do you take interns in {month}? I study accounting.
[press | =]
I'm a journalist writing about shift work. Can I talk to your founder by {day}?
We'd like to print a screenshot of your time clock in our trade magazine. Who gives permission?
For a radio piece about Sunday work I'm looking for a voice from your company.
May we quote your numbers on missed payments in our yearbook?
[partnership | =]
We make payroll software and would like to discuss a partnership.
Is there a reseller programme? I advise small hotels.
Our agency would love to become an implementation partner, what are the requirements?
I have {m} customers who could use your product. Who do I talk to about working together?
[training]
Do you run courses for new planners?
Is there a beginner's video about making rosters? My deputy has never seen the program.
Could someone come to {n} of our branches and train the team leads?
When's the next webinar, and will it be recorded?
[how-to docs]
Where's the manual? I like to read on paper.
I read the guide on overtime twice and still don't grasp what "time bank" means. Explain?
What is the right way to plan on-call duty in Rotaquill? Just for understanding.
Which guide should I start with if I take over planning from a colleague?
[gdpr paperwork]
We need a signed data processing agreement from you before our audit on {date}.
Where are your servers? Our data protection officer asks.
Please fill in the attached security questionnaire, it has {m} questions.
Do you have an ISO certificate that we can put into our file?
[misdirected mail | =]
I've ordered a sofa and it hasn't come. Order {ref}.
You sent me someone else's parcel, brown box, no sender.
Is this the dentist? I must move my appointment on {day}.
My flight was cancelled, where do I get a hotel voucher?
[event invitation | =]
We cordially invite you to our trade fair on {date}.
Would one of you speak at our founders' evening? {m} guests, free pizza.
Our school organises a career day, could you come and show what you do?
A panel on the future of shift work lacks a participant. Interested?
[sales pitch | =]
We offer search engine optimisation for companies like yours, first month free.
I noticed that your website could rank higher. May I call on {day}?
Do you need office coffee? Try our beans for nothing.
Our outsourcing team processes invoices at half your present cost. Let's talk.
[survey research | =]
I'm writing my thesis about scheduling software, would you answer {n} questions?
Our institute studies night work. May we place a questionnaire with your users?
Would you share anonymous figures on overtime for a research project?
For a class project we're comparing planning tools. Is there someone to interview?
[company info | =]
Who owns Rotaquill? My boss wants to know who we're dealing with.
How many people work for you, and where?
Is it true that you were bought by a bigger firm?
What does the name mean? We have a bet running in the office.
[office address]
What's your postal address? I have to send a letter by registered mail.
Where can I visit you? I'm in town on {day}.
Do you have a phone number? I don't care for writing.
What are your opening hours between the holidays?
[newsletter]
Please take me off the newsletter, I've never subscribed.
I enjoy your newsletter, could I reprint the piece on breaks in our staff paper?
Your marketing mails come {n} times a week. Too many.
The link to the blog in your newsletter shows an article about cats, was that on purpose? :)
[testimonial/case study]
We'd be happy to be a reference customer.
You want to shoot a video in our shop, who's coming and when?
Please take our logo off your website, we never agreed to it.
I left you five stars. Where's the t-shirt? ;)
[lost and found | =.]
One of your people left an umbrella at our office.
Found: a badge with your logo at the main station.
Your technician forgot his charger here on {day}.
A visitor book of yours was in the parcel with our tablets, do you want it back?
[thank you closing | .]
Solved it myself, you may close {ref}.
Never mind my last mail, I looked at the wrong week.
It works again! No idea what you did. Ticket can be closed.
Forget the question about the bill, my colleague had the answer.
[out of office | -]
I'm out of the office until {date}. In urgent cases turn to {name}.
Automatic reply: this mailbox is no longer read. Invoices go to accounts@.
Delivery failed: the recipient's mailbox is full.
Thank you for your message to the town hall. Your reference is {ref}.
[other vs billing | ?]
Could you sign the supplier form so that we're able to keep paying you at all?
We're thinking about buying. Who can advise us on which package fits a theatre?
Your rep {name} never called me back about the offer. I'd like to complain.
Do you have a partner rate sheet? I recommend software to my clients.
"""

PHRASINGS = {
    "billing": BILLING,
    "technical": TECHNICAL,
    "account": ACCOUNT,
    "feature_request": FEATURE_REQUEST,
    "other": OTHER,
}

# What people add to an ask of their own category. "." fits what asks for nothing, "=" what comes from no customer.
DETAILS = {
    "billing": """
Our accountant is waiting for an answer, she has to close {month}.
Finance keeps asking me about it.
We pay by card, once a month, for {plan}.
My bookkeeper wants your answer in writing.
The last invoice was {inv}, over {amt}.
At present we pay {amt} a month.
{name} in accounts makes the payments, you can ask her too.
I compared the bank statement with your price list.
The last payment left our bank on {date}: {amt}.
I looked at your pricing page but it isn't answered there.
Money is tight here since {month}.
Our treasurer won't approve another payment until that is clear.
I can send you bank statements if you need them.
The billing page says {plan}, {m} seats, {amt}.
The last yearly fee was {big}, paid on {date}.
We have always paid your bills on time.
I need this for the tax return.
It is only {amt}, but it's the principle.
The budget for the tool is {big} a year, not a cent more.
Our billing contact is {name}, customer number {ref}.
Accounts can't book the amount as it stands.
It's about the subscription for our second shop, {plan}.
My credit card bill comes on {day}, so I'd like to know what to expect.
Please put me through to whoever does the invoices.
We're a small business and such costs hurt.
Payment method on file is a debit card.
""",
    "technical": """
I cleared the cache and restarted, same thing.
It happens on every computer here.
It worked fine until {day}.
A screenshot of the error is attached.
Error code on the screen: E-{n}{m}.
Reinstalling the app changed nothing.
We use the newest version of the app.
Other websites load without trouble.
It started after the update of {date}.
Steps: open, click, wait, error.
Another browser shows the same fault.
The fault is the same for all of us.
Sometimes it works for {n} minutes, then it fails again.
{m} people can't work because of this bug.
The console says something about a timeout.
Our IT checked the network and says that the fault is on your side.
Please fix this soon, we are blocked.
I can reproduce it every time.
Is this a known bug?
We rebooted the tablet {n} times.
Turning it off and on again didn't help.
Since then we are back to pen and paper.
When will it be repaired?
Looks as if your last release broke it.
It's broken at all our locations.
I tried in a private window, it fails too.
""",
    "account": """
My user name is {name}{m}.
The e-mail address of the login is the one I write from.
The user in question is {name}.
I went through the user settings and didn't find it.
My profile page offers nothing of that sort.
I can prove who I am if you need it.
It's about the login for {biz}.
I looked under settings, users, roles.
Does the owner of the workspace have to confirm this?
Our security officer wants this done by {date}.
{name} has admin rights too, she can confirm it.
It seems I don't have the rights to do that by myself.
Nothing else on the account has been changed.
There are {m} users and {n} admins in our workspace.
The account was made in {month}.
The help article on users and roles left me puzzled.
Happy to verify my identity by phone.
The account is registered to my work e-mail.
I'd rather not create a new account.
Nobody but me has access at the moment.
My role is shown as "staff", whatever that allows.
Or is this something in the account that only you can change?
If you have to change it on your side, you have my permission.
The address I log in with ends in the name of our firm.
""",
    "feature_request": """
Right now we keep a spreadsheet on the side for it.
It would save us an hour a week.
Is something like this on your roadmap?
Other planning tools have it.
I'd be happy to test it for you.
All my team leads would use that feature daily.
We would even pay extra for such a feature.
It needn't be fancy, a simple option would do.
Just an idea, take it or leave it.
I found no option for it, so I suppose it doesn't exist yet.
Please put it on the list for a future version.
Our former software could do that.
That would be a great addition.
At the moment we work around it with sticky notes.
I've been wishing for this for {n} years.
Could you consider it for the next release?
As an optional add-on it'd be enough for us.
We are surely not the only ones who want it.
If it's planned already, when will it come?
Your chat told me it isn't possible today.
Perhaps others have suggested it too.
Consider this a vote for it.
It would be nice to have this before {month}.
I'd love to see that in the app one day.
""",
    "other": """
If you aren't the right person for this, please pass it on.
It's neither our contract nor a fault, only something for our files.
Who in your company deals with such things?
There is nothing wrong with the software.
A link or a document is enough.
I need it for our records.
This is a general matter and not about my workspace.
None of the topics in your form fits, so I chose "general".
Our management asked me to send this.
Please forward it to your management.
You can also answer by post.
I wasn't sure whom to ask.
""",
    "other .": """
No need to answer.
No reply needed.
Just so that you know.
Please pass it on to the team.
I thought you'd want to know.
That's all, really.
Nothing for you to do.
""",
    "other =": """
Could you forward this to the right person?
I'm happy to explain more on the phone.
Whom in your company should I talk to?
We look forward to hearing from your company.
Our office can be reached in the mornings.
Please pass it on to your management.
If that isn't for you, just tell me whom to write to.
More about us on request.
I am writing to several companies about it.
""",
}

# Remarks in passing, in the words of one category and put into tickets of the others. None of them asks for anything.
ASIDES = {
    "billing": """
The invoice for {month} has arrived, so nothing to do there.
We paid the last bill yesterday, in case somebody wonders.
(Yes, the subscription is paid. I asked accounts.)
We are on the {plan} plan, paid yearly, if that matters.
Our renewal comes up in {month} and that is all settled.
The refund from last month did reach us, thank you.
Accounts will pay {inv} this week, that's a separate matter.
This isn't about money, the {amt} a month is fine with us.
I know {name} wrote to you about a discount, that has nothing to do with it.
For {amt} a month I really can't complain otherwise.
Our card was renewed last week and the payment went through.
Price was never the issue, we budgeted {big} for this year.
We upgraded to {plan} in {month} and are happy with it.
The VAT question from {date} is closed as far as I'm concerned.
Ignore the reminder for {inv}, it crossed with our payment.
The credit note came too, many thanks for that.
""",
    "technical": """
(The export crashed on me earlier but it worked at the second try.)
The app was a bit slow this morning, it is fine again.
There was an error message at first, after a reload it was gone.
The kiosk froze on {day}, a restart cured it.
No bug this time, for once everything runs.
The sync hiccup from {date} hasn't come back, well done.
My browser crashed while I was typing this, so here it is again.
The board loads fine since the last update.
We had an outage here on {day}, our own internet was to blame.
The blank page I reported in {month} is repaired.
Our tablet was broken for a while, a new one is in place.
Nothing is down or anything, don't worry.
Sorry for the screenshot, the upload failed and I gave up on it.
The time clock showed an error {n} on {day}, only once.
The reports work nicely again after the fix.
Your chat window wouldn't load, hence the mail.
""",
    "account": """
I can log in fine, before you ask.
{name} has reset her password already, so please ignore her mail.
I have admin rights, in case that matters.
You can write to my old e-mail address, I still read it.
My profile is up to date, {name} checked.
We added {n} new users last week and this went smoothly.
I write from {name}'s account since mine is on another computer.
Two-factor is switched on for all of us, by the way.
The new user roles suit us well.
I'm the owner of the workspace, user name {name}.
Our admin {name} is on holiday, so I am writing.
The invitation for {name} has arrived in the meantime.
My password manager logged me in at once, that was a nice surprise.
{name} left us in {month}, her profile is already archived.
Permissions are not the point here, I've the same as before.
The verification code came by text within seconds.
""",
    "feature_request": """
A dark mode would be nice one day, but that's not for now.
The new copy button that you added is great.
I like the idea of shift templates from your last update.
I won't ask for more features today, promise.
My wish list went to {name} at the last meeting.
I hear that you plan a watch app, we're curious.
The month view we'd asked for is lovely.
Would be nice to have shortcuts too, some other time.
{name} has sent you our ideas for the board already.
Thanks for adding the colours, it was on our list for years.
I saw on your roadmap that swaps are coming, no hurry.
Someone suggested an option for split shifts, forget about that.
The integration you added in {month} saves us an hour a week.
It'd be great to have it in Spanish, but we manage.
The missing filter doesn't bother us any more.
We voted for the new calendar and are glad that it came.
""",
    "other": """
Greetings to {name} in your team, she was so helpful on {day}.
We enjoyed the webinar in {month}.
Your newsletter made me laugh this week.
See you at the fair in {month}, perhaps.
I filled in your survey already.
A journalist asked us about you, we only said good things.
The training that {name} gave us was excellent.
The data protection paper has arrived, signed copy is in the post.
Happy belated anniversary to your company!
I have told our neighbours about you, they'd like a demo.
I know that you're short of people, I saw the job ads.
The manual is well written, I did look there first.
Nice to hear that you've moved to a bigger office.
We hung up your poster in the canteen.
Your colleague {name} said I should write to this address.
Your answer to my last ticket ({ref}) was quick, thank you.
""",
}

# The same, as a way into the ticket.
LEAD_INS = {
    "billing": """
Thanks for sorting out the double charge last week. Now something else.
The bill is paid, so on to a different topic.
I had written to you about an invoice, that's done. This is new:
First of all, the refund came. Second:
Not a question about prices this time.
""",
    "technical": """
The crash from last week is gone, thank you. Different matter now.
Since the app works again I finally get round to this.
You fixed our export so fast that I dare to write again.
It's not a bug, I believe.
Everything's running without errors at the moment. Even so:
""",
    "account": """
I managed to sign in, so that's off the table. What brings me here:
Thanks for unlocking {name} so quickly. Another thing:
After the password trouble of {day} there's one more thing.
My login works, no worry about that.
We have added the new admin as you explained. Next point.
""",
    "feature_request": """
I sent you a few suggestions in {month}; this isn't one of them.
Great that the new planner view is there, we'd waited for it.
Leaving aside all the features we dream of:
The option you built for us does its job. Now to this:
No new wishes today.
""",
    "other": """
Nice talking to you at the fair.
After the training on {day} one thing came up.
{name} from your team told me to put this in writing.
I hope the move to your new office went well.
I've read the guide and didn't get any wiser.
""",
}

# Who is writing. {biz} is a kind of firm, with its article; {m} a number of people.
CONTEXTS = """
We are {biz} with {m} people and plan everything in Rotaquill.
We have been with you since {month}.
I look after the rosters at {biz}.
Background: {biz}, {n} locations, {m} staff.
I took over the job from {name} in {month} and am still finding my way.
We're {biz}, so weekends are when we need things to work.
I'm the manager of {biz}, not a computer person.
We have been using your software for {n} years.
I run {biz} together with my sister.
I'm writing on behalf of {name}, who is off sick.
We are {biz} and open seven days a week.
We switched to Rotaquill from paper in {month}.
I already asked {name} here and she doesn't know either.
I do the office work for {biz}, mornings only.
I've spent {m} minutes in the help pages without finding it.
We're a small place, {m} people in the season and {n} in winter.
My boss asked me to write to you.
This came up in our team meeting on {day}.
I called your hotline on {date} but gave up in the queue.
We have two workspaces, this is about the one for {biz}.
We start the new season on {date}, so I'm trying to get everything in order.
I hope that I'm in the right place here.
I tried to find this out by myself since {day}.
I plan for {n} teams, about {m} people in all.
It's month-end here and my desk is full.
I'm new at {biz} and was handed this to deal with.
"""
EMPLOYEE_CONTEXTS = """
I work at {biz}.
I'm on early shift at {biz}, so I can write only now.
I've been working at {biz} since {month}.
I asked my manager and she sent me to you.
My boss doesn't know the answer.
I'm a part-timer at {biz}.
I use the app on my phone only.
"""
OUTSIDER_CONTEXTS = """
I found this address on your website.
I hope this is the right mailbox, the form only offered billing and technical.
I don't use the product myself and have no login.
This isn't about an account or an invoice.
I tried to call but the menu only knows refunds, passwords and errors.
Your contact form kept asking for a customer number, I don't have one.
I'm not a customer (yet).
I've only seen your pricing page so far.
Forgive me if that lands at technical support, I saw no other address.
The sign-up page wanted a credit card, so I am writing here.
I got your address from {name} at {biz}.
It's nothing to do with a subscription.
"""
ANGRY_CONTEXTS = """
This is the {n}th time that I'm writing.
I have had it up to here.
Nobody answered my mail of {date}.
I pay you and this is what I get.
{m} people are waiting for me.
Seriously?
I've wasted my whole {day} on this.
Unbelievable.
What on earth is going on over there?
"""

GREETINGS = {
    "curt": ["Hi,", "hello", "Hi"],
    "plain": [
        "Hi,",
        "Hello,",
        "Hi there,",
        "Hello team,",
        "Good morning,",
        "Hi Rotaquill team,",
        "Hey,",
        "Hi support,",
    ],
    "polite": [
        "Dear support team,",
        "Dear Rotaquill team,",
        "Good afternoon,",
        "Good morning,",
        "Hello and good day,",
        "Dear Sir or Madam,",
        "Dear all,",
        "To whom it may concern:",
        "Hello dear team,",
    ],
    "chatty": [
        "Hey there!",
        "Hiya,",
        "Hello you lovely people,",
        "Hey folks,",
        "Hi, me again!",
        "Heya team,",
        "Hello hello,",
        "Hi all, hope you're well!",
        "Morning!",
        "Good evening!",
        "Hi, long time no write.",
        "Howdy,",
    ],
    "angry": ["Hello.", "To the management:", "Attention support!", "Hello???"],
}
REQUEST_CLOSERS = {
    "curt": ["Asap pls.", "Need to know today.", "Thx", "pls answer", "Any idea?", "Urgent."],
    "plain": [
        "Can you let me know?",
        "Please get back to me.",
        "Let me know what you need from me.",
        "What should I do?",
        "An answer by {day} would help.",
        "Who can help me with that?",
        "I'd need to know before {date}.",
    ],
    "polite": [
        "I would be grateful for a short reply.",
        "Thank you very much in advance for your help.",
        "Could you kindly advise?",
        "Please excuse the trouble, and thank you for your time.",
        "Kindly do the needful.",
        "I wait for your kind answer.",
        "If you need more details, please do ask.",
        "We would appreciate to hear from you until {day}.",
    ],
    "chatty": [
        "Would make my {day} if you could answer :)",
        "Sorry for the long mail, I always write novels!",
        "No rush, whenever you find a minute.",
        "Sorry if it's a silly thing to write about...",
        "I'll buy whoever answers a coffee.",
        "Answer when you can, I'm here till {time}.",
        "Ping me when you know more, ok?",
        "Fingers crossed, and thanks a million!",
        "You'd be my hero 🙏",
    ],
    "angry": [
        "I expect an answer today.",
        "This is not acceptable.",
        "I am losing my patience.",
        "And please no standard reply.",
        "Otherwise we'll look for something else.",
        "Call me. Today.",
        "I want to hear from a person!!",
    ],
}
PLAIN_CLOSERS = {
    "curt": ["Thanks.", "thx", "Rgds"],
    "plain": ["Thanks", "Thank you!", "Thanks, bye", "Regards", "Best", "Cheers,"],
    "polite": ["Kind regards", "With kind regards", "Best regards", "Yours sincerely", "Many thanks and best wishes"],
    "chatty": [
        "Cheers!",
        "Have a lovely day!",
        "Hugs from the crew 😊",
        "Take care!",
        "Bye for now!",
        "Sunny greetings",
        "xx",
    ],
    "angry": ["Regards.", "No regards.", "Waiting."],
}
SUBJECTS = [
    "Question",
    "Urgent",
    "Help",
    "Your mail",
    "Quick one",
    "Follow-up",
    "Request",
    "From {biz}",
    "Ticket {ref}",
    "(none)",
]

ASIDE_OPENINGS = ["", "", "", "By the way: ", "PS: ", "Oh, and: ", "Btw: "]

WOMEN = [
    "Marta",
    "Priya",
    "Ines",
    "Carol",
    "Noémie",
    "Fatou",
    "Greta",
    "Olga",
    "Aisha",
    "Lucía",
    "Wendy",
    "Hanne",
    "Mei",
]
MEN = ["Tom", "Jorge", "Dave", "Piotr", "Kwame", "Sven", "Rashid", "Owen", "Luca", "Milan", "Zoltán", "Ben", "Hiro"]
FIRMS = [
    "bakery", "dental practice", "hotel", "fire station", "care home", "garden centre", "swimming pool", "cinema",
    "cleaning company", "café", "call centre", "pharmacy", "brewery", "bike shop", "museum", "nursery", "theatre",
    "catering firm", "warehouse", "vet clinic", "ski school", "restaurant", "security firm", "gym", "ice cream parlour",
    "hospital ward", "petrol station", "language school", "hair salon", "courier firm",
]  # fmt: skip
PLACES = [
    "Harrow Lane",
    "Old Mill",
    "Northgate",
    "Lindenhof",
    "Quayside",
    "Three Oaks",
    "Bellweather",
    "Saltmarsh",
    "Elm Court",
]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
PLANS = ["Crew", "Studio", "Fleet"]  # from the cheapest up; the free one, Solo, is named in the phrasings

MISSPELLINGS = {
    "the": "teh", "receive": "recieve", "because": "becuase", "definitely": "definately", "account": "acount",
    "their": "thier", "please": "plese", "until": "untill", "separate": "seperate", "tomorrow": "tommorow",
    "which": "wich", "address": "adress", "received": "recieved", "with": "wiht", "employee": "employe",
    "payment": "paymnet", "password": "pasword", "schedule": "schedual", "happened": "happend", "really": "realy",
    "would": "woud", "people": "poeple", "again": "agian", "you": "u", "are": "r", "your": "ur", "there": "ther",
    "and": "adn", "this": "tihs", "invoice": "invioce", "calendar": "calender", "colleague": "collegue",
}  # fmt: skip


@dataclass(frozen=True)
class Phrasing:
    """One way to put one ask."""

    category: str
    scenario: str
    flags: str
    text: str


@dataclass(frozen=True)
class Ticket:
    """A finished ticket, and where it comes from."""

    text: str
    phrasing: Phrasing

    @property
    def category(self) -> str:
        return self.phrasing.category

    @property
    def ambiguous(self) -> bool:
        return "?" in self.phrasing.flags


class Dice:
    """Draws that are the same on every Python version."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def between(self, low: int, high: int) -> int:
        return low + int(self._random() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self._random() * len(items))]

    def shuffled(self, items: Iterable[T]) -> list[T]:
        return [item for _, _, item in sorted((self._random(), i, item) for i, item in enumerate(items))]


def lines(block: str) -> list[str]:
    return [line for line in block.splitlines() if line]


def read_phrasings() -> list[Phrasing]:
    phrasings: list[Phrasing] = []
    for category, block in PHRASINGS.items():
        scenario, flags = "", ""
        for line in lines(block):
            if line.startswith("["):
                scenario, _, flags = line.strip("[]").partition(" | ")
            else:
                phrasings.append(Phrasing(category, scenario, flags, line))
    return phrasings


def fill(text: str, dice: Dice, currency: str) -> str:
    """Put values into the {slots}; a slot named twice in one text gets one value."""
    if re.search(r"\b(she|her|hers)\b", text, re.I):
        names = WOMEN
    elif re.search(r"\b(he|his|him)\b", text, re.I):
        names = MEN
    else:
        names = WOMEN + MEN
    cheaper = dice.between(0, 1)
    month, day = dice.pick(MONTHS), dice.between(1, 28)
    number = MONTHS.index(month) + 1
    firm = dice.pick(FIRMS)

    def money(figures: Sequence[str]) -> str:
        figure = dice.pick(figures)
        return f"{figure} euros" if currency == "euros" else currency + figure

    values = {
        "name": dice.pick(names),
        "n": str(dice.between(4, 9)),
        "m": str(dice.between(12, 60)),
        "month": dice.pick(MONTHS),
        "day": dice.pick(DAYS),
        "date": dice.pick([f"{day} {month}", f"{month} {day}", f"{month[:3]} {day}", f"{day:02}/{number:02}"]),
        "time": dice.pick(["9:40", "7 am", "14:15", "noon", "5:30 pm", "quarter past eight", "11:05"]),
        "amt": money(["29", "36.00", "48", "59.90", "84.50", "96", "112", "137.80"]),
        "big": money(["1,140", "2,388", "960", "1,716.00", "3,420", "780", "1,299"]),
        "plan": PLANS[cheaper],
        "plan2": PLANS[cheaper + 1],
        "inv": f"{dice.pick(['INV-', 'RQ-', '#', 'no. '])}{dice.between(20000, 39999)}",
        "ref": f"{dice.pick(['', '#', 'T-', 'PX'])}{dice.between(410000, 989999)}",
        "code": dice.pick(["SPRING20", "HELLO25", "ROTA15", "CREW10"]),
        "biz": f"{'an' if firm[0] in 'aeiou' else 'a'} {firm}",
    }
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], text)


def stems(text: str) -> set[str]:
    """What a text talks about, roughly: an aside that talks about the same thing as the ask would contradict it."""
    text = re.sub(r"\{\w+\}", " ", text.lower())
    text = re.sub(r"log(?:ged|ging)?[ -]?in|sign(?:ed|ing)?[ -]in|password|two-factor|code\b", " signin ", text)
    text = re.sub(r"\bbills?\b|billed|charged?|subscription|invoices?|paid|pay\b|payments?|refund", " payment ", text)
    text = re.sub(r"crash\w*|error|bug\b|broken|down\b|fault|frozen|froze|slow", " error ", text)
    return {word[:6] for word in re.findall(r"[a-z]{5,}|app\b", text)} - COMMON


# The beginnings of words too common to tell a topic.
COMMON = {
    "about", "after", "again", "thing", "there", "their", "these", "which", "would", "could", "should", "where",
    "other", "someth", "everyt", "nothin", "please", "thanks", "thank", "people", "since", "still", "never",
    "always", "first", "second", "write",
}  # fmt: skip


@dataclass(frozen=True)
class Tone:
    """How likely each part of a ticket is."""

    greeting: float
    lead_in: float
    context: float
    detail: float
    aside: float
    closer: float
    signature: float


TONES = {
    "curt": Tone(greeting=0.12, lead_in=0.00, context=0.12, detail=0.44, aside=0.08, closer=0.25, signature=0.03),
    "plain": Tone(greeting=0.55, lead_in=0.05, context=0.18, detail=0.68, aside=0.18, closer=0.38, signature=0.18),
    "polite": Tone(greeting=0.95, lead_in=0.06, context=0.24, detail=0.68, aside=0.20, closer=0.65, signature=0.45),
    "chatty": Tone(greeting=0.80, lead_in=0.15, context=0.35, detail=0.68, aside=0.38, closer=0.65, signature=0.18),
    "angry": Tone(greeting=0.15, lead_in=0.00, context=0.50, detail=0.68, aside=0.10, closer=0.60, signature=0.10),
}
TONE_MIX = ["curt"] * 4 + ["plain"] * 6 + ["polite"] * 4 + ["chatty"] * 4 + ["angry"] * 2


def compose(phrasing: Phrasing, dice: Dice) -> str:
    """One ticket around ``phrasing``, drawn anew at each call."""
    name, flags = dice.pick(TONE_MIX), phrasing.flags
    if name == "angry" and phrasing.category == "other" and "^" not in flags:
        name = "curt"
    tone, outsider, bare = TONES[name], "=" in flags, "-" in flags
    currency = dice.pick(["$", "€", "£", "euros"])
    topics = stems(phrasing.text)

    def remark(table: dict[str, str]) -> str:
        elsewhere = dice.pick([category for category in CATEGORIES if category != phrasing.category])
        return dice.pick([line for line in lines(table[elsewhere]) if not stems(line) & topics] or [""])

    before: list[str] = []
    after: list[str] = []
    if not bare:
        if not outsider and "~" not in flags and dice.chance(tone.lead_in):
            before.append(remark(LEAD_INS))
        if dice.chance(tone.context):
            pool = ANGRY_CONTEXTS if name == "angry" else CONTEXTS
            pool = OUTSIDER_CONTEXTS if outsider else EMPLOYEE_CONTEXTS if "~" in flags else pool
            before.append(dice.pick(lines(pool)))
        if dice.chance(tone.detail):
            kind = phrasing.category + next((f" {flag}" for flag in ".=" if flag in flags), "")
            after.append(dice.pick(lines(DETAILS[kind])))
        if not outsider and "~" not in flags and dice.chance(tone.aside):
            words = remark(ASIDES)
            after.append(words if words.startswith("(") else dice.pick(ASIDE_OPENINGS) + words if words else "")
    parts = [*before, phrasing.text, *after]
    if not bare and dice.chance(tone.closer):
        plain = "." in flags or dice.chance(0.4)
        parts.append(dice.pick((PLAIN_CLOSERS if plain else REQUEST_CLOSERS)[name]))
    body = " ".join(fill(part, dice, currency) for part in parts if part)
    gap = dice.pick(["\n", " ", " ", " "])
    if not bare and dice.chance(tone.greeting):
        body = dice.pick(GREETINGS[name]) + gap + body
    if not bare and dice.chance(tone.signature):
        writer, initial = dice.pick(WOMEN + MEN), dice.pick("ABDGHKLMPRSTW")
        firm = f"{dice.pick(PLACES)} {dice.pick(FIRMS).title()}"
        names = [writer, f"- {writer}", f"{writer}, {firm}", f"{writer} ({firm})", f"{writer} {initial}."]
        body += gap + dice.pick(names)
    subject = f"Subject: {dice.pick(SUBJECTS)}\n" if not bare and dice.chance(0.05) else ""
    return fill(subject, dice, currency) + mistype(body, name, dice)


def mistype(text: str, tone: str, dice: Dice) -> str:
    """The noise of typing: about a third of the tickets have some."""
    if tone == "angry" and dice.chance(0.4):
        shouted = dice.pick([word for word in text.split() if len(word) > 3])
        text = text.replace(shouted, shouted.upper(), 1)
    if tone == "angry" and dice.chance(0.3):
        text = re.sub(r"([.?!])(\s|$)", lambda m: (m[1] if m[1] != "." else "!") * 2 + m[2], text, count=1)
    if tone in ("curt", "chatty", "plain") and dice.chance(0.17):
        text = text.lower()
    if tone != "polite" and dice.chance(0.15):
        text = text.replace("'", "")
    if dice.chance(0.12):
        text = text.replace(",", "")
    if dice.chance(0.15):
        text = text.rstrip(".!")
    if dice.chance(0.22):
        words = text.split(" ")
        for _ in range(dice.between(1, 3)):
            spot = dice.between(0, len(words) - 1)
            words[spot] = misspell(words[spot], dice)
        text = " ".join(words)
    return text


def misspell(word: str, dice: Dice) -> str:
    if word.lower() in MISSPELLINGS and dice.chance(0.8):
        return MISSPELLINGS[word.lower()]
    if len(word) < 5 or not word.isalpha():
        return word
    spot = dice.between(1, len(word) - 3)
    how = dice.pick(("swap", "drop", "double"))
    if how == "swap":
        return word[:spot] + word[spot + 1] + word[spot] + word[spot + 2 :]
    return word[:spot] + word[spot + 1 :] if how == "drop" else word[: spot + 1] + word[spot:]


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """The runs of three words of a text, without case and punctuation."""
    words = re.findall(r"\w+", text.lower())
    return frozenset(tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2)))


def similarity(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    """Jaccard: shared shingles as a share of all."""
    return len(a & b) / len(a | b)


def assign(phrasings: Sequence[Phrasing], dice: Dice) -> dict[str, list[Phrasing]]:
    """Which phrasings go into which split, as often as they are used there, in the order of the file."""
    splits: dict[str, list[Phrasing]] = {split: [] for split in SPLITS}
    for category in CATEGORIES:
        own = [p for p in phrasings if p.category == category]
        for scenario in dict.fromkeys(p.scenario for p in own):
            shuffled = dice.shuffled(p for p in own if p.scenario == scenario)
            for split, (count, uses) in USES.items():
                splits[split] += [phrasing for phrasing in shuffled[:count] for _ in range(uses)]
                shuffled = shuffled[count:]
    for split, size in SPLITS.items():
        if len(splits[split]) != size:
            raise ValueError(f"{split}: {len(splits[split])} tickets come out, {size} are wanted")
    return {split: dice.shuffled(chosen) for split, chosen in splits.items()}


def generate(seed: int = SEED) -> dict[str, list[Ticket]]:
    """All tickets by split, in the order of the file."""
    dice = Dice(seed)
    splits: dict[str, list[Ticket]] = {}
    seen: list[tuple[str, frozenset[tuple[str, ...]]]] = []
    for split, phrasings in assign(read_phrasings(), dice).items():
        splits[split] = []
        for phrasing in phrasings:
            for _ in range(200):
                text = compose(phrasing, dice)
                grams = shingles(text)
                if MIN_WORDS <= len(text.split()) <= MAX_WORDS and all(
                    similarity(grams, other) < (MAX_SIMILARITY if where != split else 1.0) for where, other in seen
                ):
                    break
            else:
                raise ValueError(f"no ticket fits around {phrasing}")
            splits[split].append(Ticket(text, phrasing))
            seen.append((split, grams))
    return splits


def to_json(tickets: Iterable[Ticket]) -> str:
    rows = [json.dumps({"text": t.text, "category": t.category}, ensure_ascii=False) for t in tickets]
    return "[\n" + ",\n".join(rows) + "\n]\n"


if __name__ == "__main__":
    everything = [ticket for tickets in generate().values() for ticket in tickets]
    target = Path(__file__).with_name("tickets.json")
    target.write_text(to_json(everything), encoding="utf-8", newline="\n")
    print(f"{target}: {len(everything)} tickets, {sum(t.ambiguous for t in everything)} of them ambiguous")
